"""Criteria that look at feature maps: those of one batch, [N, channels, *places], make scores [N, channels].

The view of units takes each map behind the normalisation and activation of its layer, and means over all samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.criteria.registry import OBSERVED, criterion

OBSERVED.add("maps", "the feature maps")


@criterion(
    "hrank",
    granularities={"channel", "head"},
    per="map",
    moment="after",
    paper="Lin et al. 2020, HRank, eq. 4",
)
def hrank(maps: Tensor) -> Tensor:
    """Rank of a unit's feature map, as a matrix of its rows and columns, mean over samples.

    The rank is how many singular values exceed max(H, W) · ε · the largest of them, with the ε of the map's dtype,
    float32 at least. Of maps with more than two dimensions of places the rank is the mean over their last two; those
    with fewer count as one column, whose rank is 1 unless it is zero.
    """
    while maps.ndim < 4:
        maps = maps.unsqueeze(-1)
    ranks: Tensor = torch.linalg.matrix_rank(maps.float() if maps.dtype.itemsize < 4 else maps)
    return ranks.double().unsqueeze(-1).flatten(2).mean(2)
