"""Criteria that look at the loss's gradient."""

from __future__ import annotations

from torch import Tensor

from secateur.criteria.registry import criterion


@criterion(
    "taylor",
    granularities={"weight", "n:m", "channel", "head", "layer"},
    paper="Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, eq. 8",
)
def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """First-order change of the loss when a weight goes to zero, |w · ∂L/∂w|; a unit's is the sum over its weights."""
    return (weight * gradient).abs()
