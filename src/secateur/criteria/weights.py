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

    `norm` is "l1" (|w|) or "l2" (w²). For single weights the two rank alike, so the masks are the same; they
    differ once weights are summed to units.
    """
    if norm not in NORMS:
        raise InputError(f"There is no norm '{norm}' for magnitude: choose {' or '.join(NORMS)}.")
    return NORMS[norm](weight)


NORMS = {"l1": torch.abs, "l2": torch.square}


@criterion("random", granularities={"weight", "n:m"}, paper="baseline; Blalock et al. 2020, ShrinkBench")
def random(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform noise in [0, 1): the baseline every criterion has to beat."""
    return torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
