"""Snapshots of a model's weights at given iterations of its training, one file each, for rewinding."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from torch import Tensor, nn

from secateur.core.errors import InputError, StoreError
from secateur.core.files import sweep
from secateur.storage.model_files import read_tree, write_tree
from secateur.training.duration import Duration

FOLDER = "snapshots"


class Snapshots:
    """The snapshots of a training in `folder`, one at each of `iterations`; none without a folder."""

    def __init__(self, folder: str | os.PathLike[str] | None, iterations: Collection[int]) -> None:
        self.folder, self.iterations = folder, set(iterations)

    @classmethod
    def at(
        cls, folder: str | os.PathLike[str] | None, spans: Sequence[str], per_epoch: int, total: int
    ) -> Snapshots:
        """Return the snapshots after these spans. Raises `InputError` for one past the end, or without a folder."""
        moments = {span: Duration.parse(span).iterations(per_epoch, total) for span in spans}
        late = [span for span, moment in moments.items() if moment > total]
        if late:
            raise InputError(
                f"There is no snapshot after {late[0]}: the training ends after {total} iterations."
            )
        if moments and folder is None:
            raise InputError("Snapshots are files: give a folder to keep them in.")
        if moments and folder is not None:
            sweep(Path(folder) / FOLDER)
        return cls(folder, moments.values())

    def take(self, iteration: int, model: nn.Module) -> None:
        """Write the model's `state_dict` if `iteration` is one of the `iterations`."""
        if self.folder is not None and iteration in self.iterations:
            write_tree(snapshot_path(self.folder, iteration), model.state_dict())


def snapshot_path(folder: str | os.PathLike[str], iteration: int) -> Path:
    """Return the path of the snapshot of an iteration."""
    return Path(folder) / FOLDER / f"{iteration}.safetensors"


def read_snapshot(folder: str | os.PathLike[str], iteration: int) -> dict[str, Tensor]:
    """Return the `state_dict` after `iteration` steps. Raises `StoreError` if it is missing or corrupt."""
    path = snapshot_path(folder, iteration)
    if not path.exists():
        raise StoreError(f"{path} is missing: train with snapshots=['{iteration}it'].")
    tree = read_tree(path)
    state: dict[str, Tensor] = tree["model"] if isinstance(tree.get("model"), dict) else tree
    if not any(isinstance(value, Tensor) for value in state.values()):
        raise StoreError(f"{path} is no snapshot of a training.")
    return state
