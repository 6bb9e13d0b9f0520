"""Criteria that look at the weights alone."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.criteria.registry import criterion
from secateur.errors import InputError


@criterion(
    "magnitude",
    granularities={"weight", "n:m"},
    paper="Han et al. 2015, Learning both Weights and Connections",
)
def magnitude(weight: Tensor, *, norm: str = "l1") -> Tensor:
    """Absolute value of each weight, |w|.

    `norm` is "l1" or "l2", by which a unit is measured. A single weight is a unit of its own, with |w| for
    either norm: squaring it would change no rank, but overflow and underflow.
    """
    if norm not in NORMS:
        raise InputError(f"There is no norm '{norm}' for magnitude: choose {' or '.join(NORMS)}.")
    return weight.abs()


NORMS = ("l1", "l2")


@criterion("random", granularities={"weight", "n:m"}, paper="baseline; Blalock et al. 2020, ShrinkBench")
def random(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform noise in [0, 1): the baseline every criterion has to beat."""
    return torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
