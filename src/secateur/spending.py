"""What a smaller model spares in bytes and time."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from secateur.errors import InputError
from secateur.measure.inputs import Inputs, batch_size
from secateur.measure.latency import compare_latency
from secateur.settings import Settings
from secateur.shrink.plan import named_tensors


def stored_bytes(model: nn.Module) -> int:
    """Return what a model's tensors take, shared ones once and lazy ones, which have no size yet, not at all."""
    tensors = (tensor for tensor in named_tensors(model).values() if not is_lazy(tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def spent(
    large: nn.Module, small: nn.Module, example_inputs: Inputs, settings: Settings, before: int
) -> dict[str, Any]:
    """Return fields of `Pruned`: bytes, `before` and now, and where asked for the milliseconds of a pass of each."""
    times = None
    if settings.timed:
        if settings.inplace:
            raise InputError("Timing compares the model with the smaller one: leave inplace out.")
        both = compare_latency(
            {"large": large, "small": small}, example_inputs, (batch_size(example_inputs),)
        )
        times = both["large"][0].median * 1e3, both["small"][0].median * 1e3
    return {"bytes": (before, stored_bytes(small)), "milliseconds": times}
