"""Criteria that look at the loss's gradient."""

from __future__ import annotations

from torch import Tensor

from secateur.criteria.registry import criterion


@criterion(
    "taylor",
    granularities={"weight", "n:m", "channel", "head", "layer"},
    paper="first order as in Molchanov et al. 2017 and 2019; absolute values, summed over a unit",
)
def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """First-order change of the loss when a weight goes to zero, |w · ∂L/∂w|; a unit's is the sum over its weights."""
    return (weight * gradient).abs()
