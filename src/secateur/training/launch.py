"""`train`: the public function for one process or several."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.modules import parameters_of
from secateur.core.validation import sentence
from secateur.data import Dataset
from secateur.sparsity.masks import Masks
from secateur.training.checkpoint import Checkpoint
from secateur.training.config import TrainConfig
from secateur.training.loop import Fit, fit, make_fabric
from secateur.training.processes import spread


def train(
    model: nn.Module,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    folder: str | os.PathLike[str] | None = None,
    context: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Fit:
    """Train a classifier in place and return the log.

    The train or eval mode of each submodule, frozen parameters and torch's global random state are unchanged
    afterwards. An epoch's last batch is skipped if it has fewer than two samples per process, too few for a
    normalisation layer.

    Args:
        model: any module mapping a batch to logits [N, classes] (or to an object with `.logits`).
        data: a data set from `secateur.data.load`.
        config: a `TrainConfig`; its fields can also be given as `settings` (epochs=5, lr=0.1, optimizer="adamw", …).
        masks: name → boolean mask, True keeps; cut weights stay exactly zero throughout.
        folder: folder of `metrics.jsonl`, checkpoints and snapshots. An interrupted training in it is continued;
            the checkpoint is deleted at the end. None (the default) writes no files.
        context: values that start every row of the log.
        identity: required identity of a checkpoint in `folder`; by default settings, data, model and masks. A caller
            that gives one deletes the checkpoint itself, once the trained model is stored.

    Raises:
        InputError: for an invalid setting.
        ModelError: if model and data don't fit, or the training diverges.
        StoreError: if the folder can't be written or holds another run's checkpoint.
    """
    try:
        config = TrainConfig(**{**(config.model_dump() if config else {}), **settings})
    except ValidationError as error:
        raise InputError(sentence(error)) from None
    made_with = identity_of(config, model, data, masks) if identity is None else identity
    arguments: dict[str, Any] = {"masks": masks, "folder": folder, "context": context, "identity": made_with}
    if config.devices == 1:
        result = fit(model, data, config, make_fabric(config), **arguments)
    else:
        result = spread(model, data, config, arguments)
    if identity is None:
        Checkpoint(folder, made_with).remove()
    return result


def identity_of(
    config: TrainConfig, model: nn.Module, data: Dataset, masks: Mapping[str, Tensor] | None
) -> dict[str, Any]:
    """Return the settings, data, model and masks that determine a training's result, as a JSON value.

    Settings of the machine (devices, accelerator, …) are left out.
    """
    machine = {name for name, field in TrainConfig.model_fields.items() if field.json_schema_extra}
    cuts = Masks(masks or {})
    digest = hashlib.sha256(b"".join(bits.numpy().tobytes() for bits in cuts.pack().values())).hexdigest()
    return {
        **config.model_dump(mode="json", exclude=machine),
        "data": f"{data.name} ({data.fingerprint()})",
        "model": f"{type(model).__name__} of {sum(parameter.numel() for parameter in parameters_of(model))} weights",
        "masks": f"{cuts.pruned} cut ({digest[:8]})",
    }
