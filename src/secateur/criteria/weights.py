"""Criteria of the weights alone: magnitude and random."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria.registry import criterion

MAGNITUDE_NORMS = ("l1", "l2")


def _powers(weight: Tensor, *, norm: str = "l1") -> Tensor:
    """Contribution of a weight to its unit's norm: |w|, or w² to the squared norm."""
    if _known(norm) == "l1":
        return weight.abs()
    return weight.to(torch.promote_types(weight.dtype, torch.float32)).square()


@criterion(
    "magnitude",
    elements={"weights", "units", "layers"},
    paper="Han et al. 2015, Learning both Weights and Connections",
    unit=_powers,
)
def magnitude(weight: Tensor, *, norm: str = "l1") -> Tensor:
    """Absolute value of each weight, |w|.

    `norm` is that of a unit, "l1" (default) or "l2"; raises `InputError` for any other. Single weights have |w| for
    either: squares have the same ranks, but overflow and underflow.
    """
    _known(norm)
    return weight.abs()


def _known(norm: str) -> str:
    if norm not in MAGNITUDE_NORMS:
        raise InputError(f"There is no norm '{norm}' for magnitude: choose {' or '.join(MAGNITUDE_NORMS)}.")
    return norm


@criterion(
    "random",
    elements={"weights", "units", "layers"},
    paper="baseline; Blalock et al. 2020, ShrinkBench",
)
def random(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform noise in [0, 1): the baseline of all criteria."""
    return torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
