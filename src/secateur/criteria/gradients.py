"""Criteria of first and second derivatives of the loss."""

from __future__ import annotations

from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria.registry import OBSERVED, criterion

OBSERVED.add("change", "the gradient")


@criterion(
    "taylor",
    elements={"weights", "units", "layers"},
    paper="first order as in Molchanov et al. 2017 and 2019; absolute values, summed over a unit",
)
def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """First-order change of the loss when a weight goes to zero, |w · ∂L/∂w|."""
    return (weight * gradient).abs()


@criterion(
    "joint_taylor",
    elements={"units"},
    per="change",
    moment="after",
    paper="Molchanov et al. 2017, eq. 8, and 2019, eq. 8, for coupled units",
)
def joint_taylor(change: Tensor, *, power: int = 1) -> Tensor:
    """First-order change of the loss when a whole unit is removed, |Σ w · ∂L/∂w|^power, averaged over batches.

    `change` is Σ w · ∂L/∂w of one batch, [units]. With batches of one sample it is averaged over samples. `power` is 1
    (default) or 2; raises `InputError` for any other.

    Cost: a forward and a backward pass for each batch.
    """
    if power not in (1, 2):
        raise InputError(f"The power is {power!r}: give 1 for absolute values or 2 for squares.")
    return change.abs() ** power


@criterion(
    "fisher",
    elements={"weights", "units", "layers"},
    moment="after",
    paper="Theis et al. 2018, Faster gaze prediction, eq. 9; diagonal of the empirical Fisher matrix",
)
def fisher(weight: Tensor, squared_gradient: Tensor) -> Tensor:
    """Second-order change of the loss with the Fisher diagonal as curvature, ½ w² E[(∂L/∂w)²], per sample."""
    return weight.square() * squared_gradient / 2


@criterion(
    "obd",
    elements={"weights", "units", "layers"},
    moment="after",
    paper="LeCun, Denker and Solla 1989, Optimal Brain Damage, eq. 5; diagonal estimated after Hutchinson 1990",
)
def obd(weight: Tensor, hessian_diagonal: Tensor) -> Tensor:
    """Second-order change of the loss with the diagonal of its Hessian, ½ w² ∂²L/∂w²."""
    return weight.square() * hessian_diagonal / 2
