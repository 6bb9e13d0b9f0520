"""LAMP: layer-adaptive magnitude scores, comparable between layers."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria.registry import criterion


def lamp_scores(scores: Tensor) -> Tensor:
    """Return s_u² / Σ s_v² over all v that rank at or above u, 1-D float64.

    The largest score becomes 1 and every other at most ½, so no tensor loses its last nonzero entry as long as
    at least as many entries are kept as there are tensors. Zeros score 0. Raises `InputError` for negative scores,
    since their squares reverse their order.

    >>> lamp_scores(torch.tensor([1.0, 2.0, 2.0]))
    tensor([0.1111, 0.5000, 1.0000], dtype=torch.float64)
    """
    if bool((scores < 0).any()):
        raise InputError(
            "The scope lamp compares squares of scores, and some are negative: choose another scope."
        )
    bits = (scores.double() + 0.0).view(torch.int64)  # without −0.0 they sort like the numbers, and faster
    ordered, order = bits.sort(stable=True)
    ascending = ordered.view(torch.float64)
    largest = ascending[-1:].clamp(min=torch.finfo(torch.float64).tiny)
    squares = (ascending / largest).square()
    survivors = squares.flip(0).cumsum(0).flip(0)
    lamp = torch.where(survivors > 0, squares / survivors, 0.0)
    return torch.empty_like(lamp).scatter_(0, order, lamp)


def lamp_of_filters(rows: Tensor) -> Tensor:
    """Share of a filter's squared norm, [filters, weights] → [filters], among those of at least its size."""
    return lamp_scores(torch.linalg.vector_norm(rows, dim=1))


@criterion(
    "lamp",
    elements={"weights", "units"},
    unit=lamp_of_filters,
    per="row",
    paper="Lee et al. 2021, Layer-adaptive Sparsity for Magnitude-based Pruning, eq. 4",
)
def lamp(weight: Tensor) -> Tensor:
    """Share of a weight's square among those at least as large in its tensor, w² / Σ w'² over |w'| ≥ |w|."""
    return lamp_scores(weight.detach().flatten().abs()).view(weight.shape)
