"""Criteria of feature maps: formulas from the maps of one batch, [N, channels, *places], to scores [N, channels].

The view of units reads each map after the normalisation and activation of its layer, and averages over all samples.
"""

from __future__ import annotations

from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria.registry import OBSERVED, criterion
from secateur.linalg.spectra import nuclear_losses, ranks

OBSERVED.add("maps", "the feature maps")


@criterion(
    "hrank",
    elements={"units"},
    per="map",
    moment="after",
    paper="Lin et al. 2020, HRank, eq. 4",
)
def hrank(maps: Tensor) -> Tensor:
    """Rank of a unit's feature map, as a matrix of its rows and columns, mean over samples.

    Singular values count above max(H, W) · ε times the largest, with the ε of the map's dtype, float32 at least. A map
    with more than two dimensions of places has the mean rank of its matrices over the last two; one with fewer is a
    single column, of rank 1 unless it is zero.

    Cost: a forward pass for each batch, and an elimination of each map.
    """
    while maps.ndim < 4:
        maps = maps.unsqueeze(-1)
    return ranks(maps).unsqueeze(-1).flatten(2).mean(2)


@criterion(
    "chip",
    elements={"channels"},
    per="map",
    moment="after",
    paper="Sui et al. 2021, CHIP, eq. 2",
)
def chip(maps: Tensor) -> Tensor:
    """Independence of a channel from the others, ‖A‖_* − ‖A with its row zero‖_*, A = [channels, places] of a sample.

    Mean over samples. Computed in float64 from one eigendecomposition for each sample, to a relative error below 1e-6.

    Cost: a forward pass for each batch, and one decomposition for each sample and layer.
    """
    return nuclear_losses(maps.unsqueeze(-1).flatten(2))


@criterion(
    "activation",
    elements={"units"},
    per="map",
    moment="after",
    paper="baseline; mean activation as compared in Molchanov et al. 2017, Pruning CNNs",
)
def activation(maps: Tensor, *, norm: str = "l1") -> Tensor:
    """Size of a unit's activations, mean |a|, or √ mean a² with `norm` "l2", mean over samples.

    Raises `InputError` for any other `norm`.

    Cost: a forward pass for each batch.
    """
    values = maps.double().unsqueeze(-1).flatten(2)
    if norm == "l1":
        return values.abs().mean(2)
    if norm == "l2":
        return values.square().mean(2).sqrt()
    raise InputError(f"There is no norm '{norm}' for activation: choose l1 or l2.")


@criterion(
    "apoz",
    elements={"units"},
    per="map",
    moment="after",
    paper="Hu et al. 2016, Network Trimming, eq. 1: one minus the average percentage of zeros",
)
def apoz(maps: Tensor) -> Tensor:
    """Share of non-zero activations of a unit, 1 − APoZ, mean over samples.

    Cost: a forward pass for each batch.
    """
    return (maps != 0).unsqueeze(-1).flatten(2).double().mean(2)
