"""`train`: one public function for one process or several."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from secateur.data import Dataset
from secateur.errors import InputError
from secateur.training.config import TrainConfig
from secateur.training.loop import Fit, fit, make_fabric
from secateur.validation import sentence

if TYPE_CHECKING:
    from lightning_fabric import Fabric


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

    Args:
        model: any module mapping a batch to [N, classes] logits (or to an object with `.logits`).
        data: a data set from `secateur.data.load`.
        config: a `TrainConfig`; or give its fields as `settings` (epochs=5, lr=0.1, optimizer="adamw", …).
        masks: cuts that stay exactly zero throughout.
        folder: where to write `metrics.jsonl` and checkpoints. A checkpoint found there is continued from.
        context: values that start every row of the log.
        identity: what a checkpoint in `folder` must have been made with; the config's own values by default.

    Raises:
        InputError: for a setting that makes no sense.
        ModelError: where model and data don't fit, or the training diverges.
        StoreError: where the folder can't be written or holds another run's checkpoint.
    """
    try:
        config = TrainConfig(**{**(config.model_dump() if config else {}), **settings})
    except ValidationError as error:
        raise InputError(sentence(error)) from None
    identity = {"training": identity_of(config)} if identity is None else identity
    arguments = {"masks": masks, "folder": folder, "context": context, "identity": identity}
    if config.devices == 1:
        return fit(model, data, config, make_fabric(config), **arguments)
    fabric = make_fabric(config, strategy="ddp_spawn")
    result, state = fabric.launch(_worker, model, data, config, arguments)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return result


def identity_of(config: TrainConfig) -> dict[str, Any]:
    """Return the fields of a config that determine the result, leaving out where it runs."""
    machine = {name for name, field in TrainConfig.model_fields.items() if field.json_schema_extra}
    return config.model_dump(mode="json", exclude=machine)


def _worker(
    fabric: Fabric, model: nn.Module, data: Dataset, config: TrainConfig, arguments: dict[str, Any]
) -> tuple[Fit, dict[str, np.ndarray[Any, Any]]]:
    """Train in one of several processes; the first one's result returns to the caller."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.devices))
    result = fit(model, data, config, fabric, **arguments)
    return result, {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}
