"""Criteria for untrained networks: pruning at initialisation."""

from __future__ import annotations

from torch import Tensor

from secateur.criteria.registry import criterion

EVERYTHING = {"weights", "units", "layers"}


@criterion(
    "snip",
    elements=EVERYTHING,
    paper="Lee, Ajanthan and Torr 2019, SNIP, eq. 5; its normalisation by the sum changes no rank",
    moment="before",
)
def snip(weight: Tensor, gradient: Tensor) -> Tensor:
    """Sensitivity of the loss to a connection, |w · ∂L/∂w|."""
    return (weight * gradient).abs()


@criterion(
    "grasp",
    elements=EVERYTHING,
    paper="Wang, Zhang and Grosse 2020, GraSP, eq. 8; its −θ ∘ Hg with the sign turned, as the lowest go",
    moment="before",
)
def grasp(scored_weight: Tensor, hessian_gradient: Tensor) -> Tensor:
    """First-order decrease of the squared gradient norm without a weight, θ ∘ H g, up to a factor."""
    return scored_weight * hessian_gradient


@criterion(
    "synflow",
    elements=EVERYTHING,
    paper="Tanaka, Kunin, Yamins and Ganguli 2020, SynFlow, eq. 2 and algorithm 1",
    moment="before",
    rounds=100,
)
def synflow(weight: Tensor, flow_gradient: Tensor) -> Tensor:
    """Share of a weight in the flow through the network, |θ| ∘ ∂R/∂|θ|, R = 1ᵀ Π |θ| 1."""
    return weight.detach().double().abs() * flow_gradient


@criterion(
    "iter_snip",
    elements={"weights"},
    paper="de Jorge et al. 2021, Progressive Skeletonization, Iterative SNIP",
    moment="before",
    rounds=60,
    measuring={"batch_norm": "train"},
)
def iterative_snip(weight: Tensor, gradient: Tensor) -> Tensor:
    """SNIP, |w · ∂L/∂w|, recomputed for the remaining weights in each of many rounds."""
    return snip(weight, gradient)


@criterion(
    "force",
    elements={"weights"},
    paper="de Jorge et al. 2021, Progressive Skeletonization, FORCE",
    moment="before",
    rounds=60,
    regrows=True,
    measuring={"batch_norm": "train"},
)
def force(weight: Tensor, gradient: Tensor) -> Tensor:
    """SNIP with the gradient of the pruned network in many rounds, |w · ∂L/∂(w∘m)|; cut weights may regrow."""
    return snip(weight, gradient)
