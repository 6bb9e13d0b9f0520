"""Take an optimiser along through a cut, so that training goes on with its momenta."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.modules import named_parameters
from secateur.shrink.plan import Plan


def shrink_optimizer(
    optimizer: torch.optim.Optimizer, plan: Plan, before: nn.Module, after: nn.Module
) -> None:
    """Make an optimiser of `before` one of `after`, the result of applying `plan`; the two may be the same model.

    Parameters change places in the parameter groups. A tensor of the optimiser's state that has its parameter's
    shape is sliced like it; so is one that has size 1 in some of the dimensions, as factored moments have.
    Parameters that are not the model's are left alone.

    Raises `InputError`, with nothing changed, for state that can't be sliced.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in named_parameters(before)}
    heirs = dict(named_parameters(after))
    state: dict[Any, Any] = {}
    for parameter, own in optimizer.state.items():
        name = names.get(parameter, "")
        kind = type(optimizer).__name__
        state[heirs.get(name, parameter)] = {
            key: _sliced(plan, name, value, kind) for key, value in own.items()
        }
    for group in optimizer.param_groups:
        group["params"] = [heirs.get(names.get(parameter, ""), parameter) for parameter in group["params"]]
    optimizer.state.clear()
    optimizer.state.update(state)


def _sliced(plan: Plan, name: str, value: Any, kind: str) -> Any:
    if name not in plan.kept or not isinstance(value, Tensor) or value.numel() == 1:
        return value
    shape = plan.shapes[name]
    if value.ndim != len(shape) or any(
        size not in (1, full) for size, full in zip(value.shape, shape, strict=True)
    ):
        raise InputError(
            f"{kind} keeps a tensor of shape {list(value.shape)} for {name} of {list(shape)}, which can't be cut "
            "along with it: start a new optimiser."
        )
    return plan.slice(name, value)
