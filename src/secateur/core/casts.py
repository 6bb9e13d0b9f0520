"""Copies of numbers from one dtype to another, refused where values would be lost."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.core.errors import ModelError

BITS_OF_SMALL_FLOATS = 8


def check_casts(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Raise `ModelError` if copying the tensors in `state` into those of the same names in `own` loses values.

    Rounding is no loss: float64 and bfloat16 fit into float32, and float32 into bfloat16. Complex numbers do not fit
    into real ones, numbers with fractions not into integers, nor integers into weights; large numbers not into a dtype
    in which they are infinite; float8 and smaller, which go with a scale kept elsewhere, only into the same dtype.
    `source` is the name of the file in the message.
    """
    for name in state.keys() & own.keys():
        given, wanted = state[name], own[name]
        if given.dtype != wanted.dtype and (reason := _lost(given, wanted.dtype)):
            raise ModelError(
                f"{source} holds {name} as {_called(given.dtype)}, and the model as {_called(wanted.dtype)}: {reason}."
            )


def _lost(given: Tensor, wanted: torch.dtype) -> str:
    """Return the reason why a cast loses values, with the way out; empty if it loses none."""
    convert = "convert them in the checkpoint first"
    if given.dtype.is_complex != wanted.is_complex:
        return f"one of them is complex; {convert}"
    if given.dtype.is_floating_point and given.dtype.itemsize * 8 <= BITS_OF_SMALL_FLOATS:
        return f"numbers so small go with a scale, which is not read here; {convert}"
    if given.dtype.is_floating_point != wanted.is_floating_point:
        return f"whole numbers are no weights, nor weights whole numbers; {convert}"
    return (
        "" if _survives(given, wanted) else f"some of its values become infinite there, or others; {convert}"
    )


def _survives(given: Tensor, wanted: torch.dtype) -> bool:
    """Whether a cast to a dtype of the same kind keeps finite numbers finite, and whole ones as they are."""
    cast = given.detach().to(wanted)
    if wanted.is_floating_point or wanted.is_complex:
        return torch.equal(cast.isfinite(), given.detach().isfinite())
    return torch.equal(cast.long(), given.detach().long())


def _called(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
