"""Optimal brain surgeon: the rise of the loss without a weight, after the optimal update of the others.

The curvature of the loss in a layer's weights is approximated by a Kronecker product A ⊗ G of the second moments of its
inputs and of the gradients of its outputs (Martens & Grosse 2015, Optimizing Neural Networks with Kronecker-Factored
Approximate Curvature; Grosse & Martens 2016 for convolutions), whose inverse is that of the factors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.core.contexts import evaluating
from secateur.core.errors import InputError
from secateur.core.modules import modules_of, named_parameters
from secateur.core.options import check_least
from secateur.criteria.calibration import Calibration
from secateur.criteria.input_norms import LinearOrConv, run_on
from secateur.criteria.losses import gradients
from secateur.criteria.quantities import CalibrationBatches
from secateur.criteria.registry import criterion, quantity
from secateur.linalg.damping import damped

INPUT_CHUNK = 2**24
"""Entries of a layer's patches per chunk."""


@quantity("inverse_curvature", "the inputs that weights meet")
def inverse_curvature(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    data: CalibrationBatches,
    *,
    damping: float = 0.01,
    outputs: bool = False,
) -> dict[str, Tensor]:
    """Diagonal of the inverse curvature, [A⁻¹]_jj · [G⁻¹]_ii for the weight from input j to output i.

    Name → tensor of the weight's shape, float32 at least. A = E[x xᵀ] over all samples and places, x being a layer's
    input or the patch under a kernel. With `outputs`, G = E[g gᵀ], g being the gradients of a sample's loss in the
    layer's outputs, summed over places and averaged over samples; otherwise (default) G is 1. `damping` (default 0.01)
    times its mean diagonal is added to each factor, more if it is singular; an all-zero factor has an infinite inverse.
    Measured for weights and biases (of input 1) of linear layers and convolutions; 1 for all other parameters. Raises
    `InputError` for negative `damping` and for NaN or infinite inputs or gradients.

    Cost: a forward pass for each batch, a backward pass too with `outputs`, and the inverse of each layer's moments.
    """
    check_least("option damping", damping, 0.0)
    own = dict(named_parameters(model, remove_duplicate=False))
    scored = {id(own[name]) for name in tensors}
    layers = [
        module
        for module in modules_of(model)
        if isinstance(module, LinearOrConv) and scored & {id(module.weight), id(module.bias)}
    ]
    inputs: dict[int, Moment] = defaultdict(Moment)
    slopes: dict[int, Moment] = defaultdict(Moment)

    def before(module: LinearOrConv, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else next(iter(kwargs.values()))
        for rows in patches(module, given.detach()):
            inputs[id(module.weight)].add(rows)

    def after(module: LinearOrConv, args: tuple[Any, ...], output: Tensor) -> None:
        if output.requires_grad:
            moment = slopes[id(module.weight)]
            output.register_hook(lambda slope: moment.add(channels(module, slope)))  # type: ignore[no-untyped-call]

    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in layers]
    handles += [module.register_forward_hook(after) for module in layers if outputs]
    samples = 0
    try:
        if outputs:
            for _, size in gradients(model, tensors, data):
                samples += size
        else:
            with evaluating(model), torch.no_grad():
                for batch, _ in Calibration.of(data).tracked("inputs"):
                    run_on(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[int, Tensor] = {}
    for module in layers:
        key, weight = id(module.weight), module.weight
        if key not in inputs:
            continue
        met = inputs[key].inverse_diagonal(inputs[key].rows, damping)
        slope = met.new_ones(len(met), len(weight) // len(met))
        if outputs:
            slope = slopes[key].inverse_diagonal(samples, damping) if key in slopes else slope * torch.inf
        found[key] = (slope[:, :, None] * met[:, None]).reshape(weight.shape)
        if module.bias is not None:
            found[id(module.bias)] = slope.flatten()
    return {
        name: found[id(own[name])].to(torch.promote_types(tensor.dtype, torch.float32))
        if id(own[name]) in found
        else torch.ones((), device=tensor.device).expand(tensor.shape)
        for name, tensor in tensors.items()
    }


class Moment:
    """The sum of x xᵀ over rows x, float64 [groups, n, n], and the number of `rows`."""

    def __init__(self) -> None:
        self.rows = 0
        self.total: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Add rows, [groups, rows, n]."""
        rows = rows.double()
        product = rows.mT @ rows
        self.total = product if self.total is None else self.total.add_(product)
        self.rows += rows.shape[1]

    def inverse_diagonal(self, count: int, damping: float) -> Tensor:
        """Return the diagonal of the inverse of the damped mean, [groups, n]; infinite for an all-zero matrix.

        Raises `InputError` for NaN or infinite rows.
        """
        assert self.total is not None
        mean = self.total / max(1, count)
        if not bool(mean.isfinite().all()):
            raise InputError("What layers meet on this data holds NaN or infinity: look at the inputs.")
        lower = damped(mean, damping).lower
        eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
        root = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)
        nothing = mean.diagonal(dim1=1, dim2=2).sum(1, keepdim=True) == 0
        diagonal: Tensor = root.square().sum(1)
        return diagonal.masked_fill(nothing, torch.inf)


def patches(module: LinearOrConv, inputs: Tensor) -> Iterator[Tensor]:
    """Yield the input patches of a layer's outputs, [groups, samples and places, columns of the flat weight]."""
    if isinstance(module, nn.Linear):
        yield inputs.reshape(1, -1, inputs.shape[-1])
        return
    dims = module.weight.ndim - 2
    inputs = inputs if inputs.ndim == dims + 2 else inputs[None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    seen = F.pad(inputs, module._reversed_padding_repeated_twice, mode=mode)
    for dim, (size, stride, step) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True)
    ):
        seen = seen.unfold(2 + dim, step * (size - 1) + 1, stride)[..., ::step]
    seen = seen.reshape(
        len(seen), module.groups, -1, *seen.shape[2:]
    )  # [N, groups, channels, *places, *kernel]
    seen = seen.movedim((1, 2), (0, 2 + dims))
    samples = max(1, INPUT_CHUNK // max(1, seen[:, :1].numel()))
    for start in range(0, seen.shape[1], samples):
        yield seen[:, start : start + samples].reshape(module.groups, -1, module.weight[0].numel())


def channels(module: LinearOrConv, outputs: Tensor) -> Tensor:
    """Return a layer's outputs, or their gradients, as [groups, samples and places, channels]."""
    if isinstance(module, nn.Linear):
        return outputs.reshape(1, -1, outputs.shape[-1])
    last = outputs.movedim(1 - module.weight.ndim, -1)
    return last.reshape(-1, module.groups, last.shape[-1] // module.groups).movedim(1, 0)


@criterion(
    "obs",
    elements={"weights", "units"},
    moment="after",
    paper="Hassibi & Stork 1993, Optimal Brain Surgeon, eq. 5; factors as in Wang et al. 2019, EigenDamage",
)
def obs(weight: Tensor, inverse_curvature: Tensor) -> Tensor:
    """Rise of the loss without a weight, after the optimal update of the others of its layer, w² / (2 [H⁻¹]).

    The loss is the mean squared change of the layer's outputs or, with `outputs`, the model's own.
    """
    return weight.square() / (2 * inverse_curvature)
