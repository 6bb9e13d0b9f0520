"""Ranks and nuclear norms of many matrices at once, without a singular value decomposition of each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SPECTRUM_CHUNK = 1 << 17
"""Entries per chunk, few enough for a processor's cache."""
STEP = 0.5
"""Distance of the nodes of the quadrature in ln σ; the trapezoidal rule's error is about exp(−π²/STEP)."""
TINY, EPS = torch.finfo(torch.float64).tiny, torch.finfo(torch.float64).eps
SPAN = -25.0, 18.0
"""Range of ln(σ / largest singular value) in the quadrature; less than 1e-6 of a row's loss lies outside."""


def ranks(matrices: Tensor) -> Tensor:
    """Return the rank of each matrix, [..., rows, columns] → float64 [...]; NaN for one that is not finite.

    The rank is the number of singular values above max(rows, columns) · ε · the largest, with the ε of the dtype,
    float32 at least. Singular values of float64 matrices are computed; those of shorter dtypes are counted: by
    Sylvester's law of inertia, an L D Lᵀ decomposition of A Aᵀ − t² I in float64 has as many positive pivots as A has
    singular values above t. The largest singular value is only known to lie between two bounds; if the counts at both
    differ, the singular values are computed.
    """
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    chunk = max(1, SPECTRUM_CHUNK // max(1, flat[:1].numel()))
    count = _computed if matrices.dtype == torch.float64 else _counted
    return torch.cat([count(part) for part in torch.split(flat, chunk)]).view(matrices.shape[:-2])


def _counted(matrices: Tensor) -> Tensor:
    gram = _gram(matrices.double())
    diagonal = gram.diagonal(dim1=1, dim2=2)
    trace = diagonal.sum(1)
    finite = trace.isfinite()
    if not bool(finite.all()):
        return torch.full_like(trace, torch.nan).masked_scatter(finite, _counted(matrices[finite]))
    squares = gram.square().sum((1, 2))  # of the eigenvalues, as the trace is their sum
    most, least = squares.sqrt(), squares / trace.clamp(min=TINY)  # bounds of the largest
    relative = _tolerance(matrices) ** 2
    diagonal -= relative * most[:, None]
    found = torch.full_like(trace, len(gram[0]))
    unsure = torch.linalg.cholesky_ex(gram)[1].nonzero().squeeze(1)  # the others are positive definite
    if len(unsure):
        gram = gram[unsure]
        found[unsure] = _above_zero(gram)
        gram.diagonal(dim1=1, dim2=2).add_(relative * (most - least)[unsure, None])
        differ = unsure[_above_zero(gram) != found[unsure]]
        if len(differ):
            found[differ] = _computed(matrices[differ])
    return found


def _above_zero(symmetric: Tensor) -> Tensor:
    """Count the positive eigenvalues, [n, size, size] → float64 [n]."""
    if symmetric.device.type != "cpu":  # elsewhere L D Lᵀ is not batched
        values: Tensor = torch.linalg.eigvalsh(symmetric)
        return (values > 0).sum(1).double()
    factors, pivots, _ = torch.linalg.ldl_factor_ex(symmetric)
    positive = (factors.diagonal(dim1=1, dim2=2) > 0).double()
    return torch.where(pivots > 0, positive, 0.5).sum(1)  # of a block of two, one is positive


def _computed(matrices: Tensor) -> Tensor:
    """Count singular values by computing them."""
    finite = matrices.isfinite().flatten(1).all(1)
    exact = torch.linalg.matrix_rank(matrices.double().nan_to_num(), rtol=_tolerance(matrices))
    return torch.where(finite, exact.double(), torch.nan)


def _tolerance(matrices: Tensor) -> float:
    wide = torch.promote_types(matrices.dtype, torch.float32)
    return max(matrices.shape[-2:]) * torch.finfo(wide).eps


def _gram(matrices: Tensor) -> Tensor:
    """Return the smaller of A Aᵀ and Aᵀ A."""
    rows, columns = matrices.shape[-2:]
    return matrices @ matrices.mT if rows <= columns else matrices.mT @ matrices


def nuclear_losses(matrices: Tensor) -> Tensor:
    """Return the loss of each matrix's nuclear norm with each row set to zero: [n, rows, columns] → float64 [n, rows].

    ‖A‖_* is Σ √λ over the eigenvalues of G = A Aᵀ, and zeroing a row removes a row and a column of G. With
    √λ = 1/π ∫ ln(1 + λ/σ²) dσ over σ > 0, sums over eigenvalues become determinants, and the ratio of that of G and
    that without row j is, by Cramer's rule, a diagonal entry of an inverse:

        ‖A‖_* − ‖A without row j‖_* = −1/π ∫ ln qⱼ(σ) dσ,    qⱼ(σ) = [(I + G/σ²)⁻¹]ⱼⱼ = 1 − Σᵢ uⱼᵢ² λᵢ / (λᵢ + σ²)

    with eigenvectors u. So one eigendecomposition serves all rows. In ln σ the integrand is smooth and falls off
    exponentially on both sides, and the trapezoidal rule converges exponentially. Computed in float64; the relative
    error is below 1e-6.
    """
    chunk = max(1, SPECTRUM_CHUNK // max(matrices[:1].numel(), min(matrices.shape[1:]) * matrices.shape[1]))
    return torch.cat([_losses(part) for part in torch.split(matrices.double(), chunk)])


def _losses(matrices: Tensor) -> Tensor:
    rows, columns = matrices.shape[1:]
    values, vectors = torch.linalg.eigh(_gram(matrices))
    largest = values.amax(1, keepdim=True)
    largest = largest.where(largest > 0, 1)
    real = values > max(rows, columns) * EPS * largest
    values = values.where(real, 0)
    outside = values.new_zeros(())  # share of each row's unit vector outside the computed eigenvectors
    if rows > columns:  # eigenvectors of A Aᵀ from those of Aᵀ A, without those of its null space
        vectors = (matrices @ vectors) / values.where(real, torch.inf).sqrt()[:, None]
        outside = 1 - vectors.square().sum(2, keepdim=True)
        outside = outside.where(outside > 64 * EPS, 0)
    weights = vectors.square()  # uⱼᵢ², [n, rows, i]
    nodes = torch.arange(*SPAN, STEP, dtype=torch.float64, device=matrices.device).exp()  # σ / the largest
    squares = (nodes.square() * largest)[:, None]
    total = values[:, :, None] + squares
    gone, left = weights @ (values[:, :, None] / total), weights @ (squares / total) + outside  # 1 − q, q
    logs = torch.where(gone < 0.5, torch.log1p(-gone), left.clamp(min=TINY).log())
    losses: Tensor = -(logs * nodes).sum(2) * largest.sqrt() * STEP / math.pi
    return losses
