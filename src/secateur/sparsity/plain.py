"""Tensors that can be cut: dense, of one process, and with entries of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.core.errors import ModelError
from secateur.core.modules import named_buffers, named_modules, named_parameters
from secateur.sparsity.targets import DTYPES

PACKED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
"""Homes of layers whose weights are packed into an object."""


def require_plain(model: nn.Module) -> None:
    """Raise `ModelError` naming the first layer or parameter that can't be cut as it is, and what to do instead."""
    for name, module in named_modules(model):
        if type(module).__module__.startswith(PACKED) and hasattr(module, "_weight_bias"):
            raise ModelError(
                f"{name or 'The model'} is quantised, and its weights are packed: prune the model before it is "
                "converted, and convert the result."
            )
    for name, parameter in named_parameters(model):
        if (reason := _strange(parameter)) is not None:
            raise ModelError(f"{name} {reason}.")
    buffer = next(
        (name for name, each in named_buffers(model) if each.ndim > 1 and each.is_floating_point()), None
    )
    if buffer is not None and not any(True for _ in named_parameters(model)):
        raise ModelError(
            f"The model has no parameters, and {buffer} is a buffer: make its weights parameters, with "
            "requires_grad=False if they are frozen."
        )


def _strange(parameter: Tensor) -> str | None:
    """Return why a parameter can't be cut and the way out, None for one that can."""
    data = parameter.data
    if type(data).__torch_dispatch__ is not Tensor.__torch_dispatch__ and not parameter.is_meta:
        kind = type(data).__name__
        return f"is a {kind}: prune the model before it is quantised or sharded, and do that to the result"
    if data.layout is not torch.strided:
        return "is sparse: make it dense first, by .to_dense()"
    if data.is_quantized or (data.is_floating_point() and data.dtype not in DTYPES):
        kind = str(data.dtype).removeprefix("torch.")
        return f"is of type {kind}: convert it to float32 or bfloat16 first, and the result back"
    return None
