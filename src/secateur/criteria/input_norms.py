"""Wanda: the absolute value of a weight times the norm of its input, |w| · ‖x‖."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.contexts import evaluating
from secateur.core.errors import InputError, reason_of
from secateur.core.modules import modules_of, named_parameters
from secateur.criteria.calibration import Calibration
from secateur.criteria.quantities import CalibrationBatches
from secateur.criteria.registry import criterion, quantity

LinearOrConv = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@quantity("input_norm", "the size of the inputs that weights meet")
def input_norm(
    model: nn.Module, tensors: Mapping[str, Tensor], data: CalibrationBatches
) -> dict[str, Tensor]:
    """Root mean square of each weight's input, over all samples and places; name → float32 of the weight's shape.

    Measured for the weights of linear layers and convolutions; 1 for biases and all other parameters. Raises
    `InputError` for NaN or infinite inputs, and for data on which the model does not run.

    Cost: a forward pass for each batch.
    """
    layers = [module for module in modules_of(model) if isinstance(module, LinearOrConv)]
    energy: dict[nn.Module, Tensor] = {}
    places: dict[nn.Module, int] = defaultdict(int)

    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows = _rows(module, args[0] if args else next(iter(kwargs.values())))
        squares = rows.square().sum(0, dtype=torch.float64)
        energy[module] = energy[module] + squares if module in energy else squares
        places[module] += len(rows)

    handles = [module.register_forward_pre_hook(seen, with_kwargs=True) for module in layers]
    try:
        with evaluating(model), torch.no_grad():
            for inputs, _ in Calibration.of(data).tracked("inputs"):
                run_on(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    norms = {
        id(module.weight): _spread(module, (energy[module] / max(1, places[module])).sqrt())
        for module in layers
        if module in energy
    }
    own = dict(named_parameters(model, remove_duplicate=False))
    for name in tensors:
        if id(own[name]) in norms and not bool(norms[id(own[name])].isfinite().all()):
            raise InputError(
                f"What {name} meets on this data holds NaN or infinity: its size can't be ranked; try other data."
            )
    return {
        name: norms.get(id(own[name]), torch.ones((), device=tensor.device).expand(tensor.shape))
        for name, tensor in tensors.items()
    }


def _rows(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return a layer's input as [samples and places, channels]."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        inputs = inputs.movedim(1 - module.weight.ndim, -1)
    rows = inputs.reshape(-1, inputs.shape[-1])
    return rows if rows.dtype.itemsize > 2 else rows.float()


def _spread(module: LinearOrConv, norms: Tensor) -> Tensor:
    """Return the norms of a layer's input channels in the shape of its weight: each output has those of its group."""
    weight = module.weight
    groups = 1 if isinstance(module, nn.Linear) else module.groups
    rows = norms.float().view(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    return rows.view(*rows.shape, *(1 for _ in weight.shape[2:])).expand(weight.shape)


def run_on(model: nn.Module, inputs: Any) -> None:
    """Run a model on one batch of calibration data. Raises `InputError` if it does not run."""
    try:
        if isinstance(inputs, Mapping):
            model(**inputs)
        else:
            model(inputs)
    except Exception as error:
        raise InputError(
            f"The model does not run on the calibration data ({reason_of(error)}): pass batches of what it takes."
        ) from error


def _carried(weight: Tensor, input_norm: Tensor, *, compare: str = "row") -> Tensor:
    """Contribution of a weight to its unit's score, |w| · ‖x‖."""
    return weight.abs() * input_norm


@criterion(
    "wanda",
    elements={"weights", "units", "layers"},
    moment="after",
    paper="Sun et al. 2024, A Simple and Effective Pruning Approach for Large Language Models, eq. 1",
    unit=_carried,
)
def wanda(weight: Tensor, input_norm: Tensor, *, compare: str = "row") -> Tensor:
    """Absolute value of a weight times the norm of its input, |w| · ‖x‖₂, ranked among the weights of its output.

    With `compare` "row" (default), as in the paper, the score is the weight's rank in its row, in (0, 1], so that every
    row loses the same fraction; with "none" it is |w| · ‖x‖₂ itself. A unit's score is the sum of |w| · ‖x‖₂ over its
    weights. Raises `InputError` for any other `compare`.
    """
    carried = _carried(weight, input_norm)
    if compare == "none" or weight.ndim < 2 or not weight.numel():
        return carried
    if compare != "row":
        raise InputError(f"There is no comparison '{compare}' for wanda: choose row or none.")
    order = carried.flatten(1).argsort(dim=1, stable=True)
    places = torch.arange(1, order.shape[1] + 1, device=order.device, dtype=torch.float32) / order.shape[1]
    ranks = torch.empty(order.shape, dtype=torch.float32, device=order.device)
    return ranks.scatter_(1, order, places.expand(order.shape)).view(weight.shape)
