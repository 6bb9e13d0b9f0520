"""Children of a training: the same weights at iteration k, and another order of the data from there on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from secateur.core.seeds import seed_of
from secateur.data import Dataset
from secateur.sparsity.masks import Masks
from secateur.storage import model_files
from secateur.training import TrainConfig, read_snapshot, train
from secateur.training.checkpoint import Checkpoint
from secateur.training.launch import identity_of
from secateur.training.loop import make_fabric

CHILD_FILE = "model.safetensors"


class Children:
    """The children of a training, each in its own folder below `folder`, trained on first use.

    `parent` is the folder of the training and its snapshots, `weights` a digest of its weights, `config` its settings;
    `fresh` returns its untrained model. `masks` (default none) cut a child from iteration k on, so that it is a ticket.
    Order, augmentation and dropout of a child depend on the seed, k and its number; the schedule continues from k.
    An interrupted child is continued, a finished one loaded.
    """

    def __init__(
        self,
        parent: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        data: Dataset,
        config: TrainConfig,
        fresh: Callable[[], nn.Module],
        *,
        masks: Mapping[str, Tensor] | None = None,
        weights: str = "",
    ) -> None:
        self.parent, self.folder, self.data, self.config = Path(parent), Path(folder), data, config
        self.fresh, self.masks, self.weights = fresh, Masks(masks or {}), weights
        self.device = make_fabric(config.model_copy(update={"devices": 1})).device
        self._held: dict[tuple[int, int], nn.Module] = {}

    def get(self, k: int, number: int) -> nn.Module:
        """Return child `number` of iteration `k`, on its training device; those of the last k stay in memory.

        Raises `StoreError` without a snapshot of iteration k, and the errors of `secateur.train`.
        """
        self._held = {place: model for place, model in self._held.items() if place[0] == k}
        if (k, number) not in self._held:
            self._held[k, number] = self._made(k, number).to(self.device)
        return self._held[k, number]

    def _made(self, k: int, number: int) -> nn.Module:
        model, folder = self.fresh(), self.folder / f"{k}-{number}"
        seed = seed_of("child", self.config.seed, k, number)
        config = self.config.model_copy(update={"start_at": f"{k}it", "seed": seed, "snapshots": ()})
        made_with = {"of": self.weights, **identity_of(config, model, self.data, self.masks)}
        if (folder / CHILD_FILE).exists():
            stored = model_files.read(folder / CHILD_FILE)
            if stored.about == made_with:
                model.load_state_dict(stored.state)
                return model
        model.load_state_dict(read_snapshot(self.parent, k))
        context = {"do": f"child {number} of {k}it"}
        train(model, self.data, config, masks=self.masks, folder=folder, context=context, identity=made_with)
        model_files.save(model, folder / CHILD_FILE, masks=self.masks, about=made_with)
        Checkpoint(folder, made_with).remove()
        return model
