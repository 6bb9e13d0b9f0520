"""Criteria of whole filters, [units, weights per unit], and of normalisation scales, [units]."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria.registry import criterion


@criterion(
    "linf",
    elements={"units"},
    per="row",
    paper="largest absolute weight; one of the norms compared in Li et al. 2017, Pruning Filters",
)
def linf(rows: Tensor) -> Tensor:
    """Largest absolute weight of each filter, max |w|."""
    return rows.abs().amax(1)


@criterion(
    "fpgm",
    elements={"units"},
    per="row",
    moment="after",
    paper="He et al. 2019, Filter Pruning via Geometric Median, eq. 5",
)
def fpgm(rows: Tensor, *, distance: str = "l2") -> Tensor:
    """Sum of a filter's distances to the others, Σ ‖r − r'‖, lowest near the geometric median.

    `distance` is "l2", "l1" or "cosine" (one minus the cosine). Raises `InputError` for any other.

    Cost: distances between all pairs of filters.
    """
    if distance == "cosine":
        unit = torch.nn.functional.normalize(rows.double(), dim=1)
        return (1 - unit @ unit.T).sum(1)
    if distance not in ("l1", "l2"):
        raise InputError(f"There is no distance '{distance}' for fpgm: choose l2, l1 or cosine.")
    # distances from a matrix product would lose the small ones to cancellation
    return torch.cdist(rows, rows, p=float(distance[1]), compute_mode="donot_use_mm_for_euclid_dist").sum(1)


@criterion(
    "bn_scale",
    elements={"channels"},
    per="scale",
    moment="after",
    paper="Liu et al. 2017, Network Slimming; cut after training with sparse scales",
)
def bn_scale(scale: Tensor) -> Tensor:
    """Absolute scale of the unit's normalisation, |γ|; units without one get no score."""
    return scale.abs()
