"""Damped Cholesky factors of second moments, with damping raised until they exist."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.options import check_least

SMALLEST_PIVOT = 1e-12
"""Least pivot, relative to the mean diagonal, that counts as invertible."""


class Damped(NamedTuple):
    """H + damping · mean(diag H) · I and its lower triangular Cholesky factor, both float64 [groups, n, n]."""

    matrix: Tensor
    lower: Tensor
    damping: float


def damped(moment: Tensor, damping: float) -> Damped:
    """Damp a second moment, float64 [groups, n, n], symmetric and positive semidefinite, and factor it.

    Damping is raised tenfold until the inverse exists; the mean of an H of zeros counts as 1. Raises `InputError` if H
    is not finite, or the damping is negative or no number.

    >>> damped(torch.ones(1, 2, 2, dtype=torch.float64), 0.0).damping
    1e-12
    """
    check_least("option damping", damping, 0.0)
    if not bool(moment.isfinite().all()):
        raise InputError("The activations on this data hold NaN or infinity: look at the inputs.")
    mean = moment.diagonal(dim1=1, dim2=2).mean(1)
    mean = torch.where(mean > 0, mean, 1)[:, None, None]
    eye = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
    while True:
        matrix = moment / mean + damping * eye
        lower, failed = torch.linalg.cholesky_ex(matrix)
        pivots = lower.diagonal(dim1=1, dim2=2).square()
        if not bool(failed.any()) and bool((pivots > SMALLEST_PIVOT).all()):
            return Damped(matrix * mean, lower * mean.sqrt(), damping)
        damping = max(10 * damping, SMALLEST_PIVOT)
