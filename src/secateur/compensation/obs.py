"""Optimal brain surgeon with one Hessian for all rows: removal column by column, with an update of later columns.

The loss of a row w of a product is ½ (w − w*) H (w − w*)ᵀ, H being the second moment of the product's inputs, the same
for every row. With a fixed order of columns, the inverse Hessians of the remaining columns form one triangular factor
(Frantar & Alistarh 2023, SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, Alg. 1; Hassibi &
Stork 1993, Second Order Derivatives for Network Pruning, eq. 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from secateur.linalg.damping import damped


class ColumnSelector(Protocol):
    """Choice of the kept weights, `span` columns at a time."""

    @property
    def span(self) -> int:
        """Number of columns per choice."""

    def __call__(self, costs: Tensor, columns: slice) -> Tensor:
        """Return the mask of kept weights in `columns`, boolean, from the costs of removal, [groups, rows, columns]."""


@dataclass(frozen=True)
class Given:
    """A given mask: `kept`, boolean [groups, rows, columns]."""

    kept: Tensor
    span: int = 128

    def __call__(self, costs: Tensor, columns: slice) -> Tensor:
        """Return the mask of `columns`."""
        return self.kept[..., columns]


@dataclass(frozen=True)
class Cheapest:
    """Removal of the cheapest weights of all rows: as many as `kept` leaves out, spread evenly over the columns.

    Weights that are not `allowed` are removed first, and count. Both are boolean [groups, rows, columns].
    """

    kept: Tensor
    allowed: Tensor
    span: int = 128

    def __call__(self, costs: Tensor, columns: slice) -> Tensor:
        """Return the mask of all but the cheapest; the first of equals are removed."""
        allowed = self.allowed[..., columns]
        free = self.allowed.sum((0, 1)).cumsum(0)
        cut, total = int((self.allowed & ~self.kept).sum()), max(1, int(free[-1]))
        upto = [round(cut * int(free[at - 1]) / total) if at else 0 for at in (columns.start, columns.stop)]
        flat = costs.masked_fill(~allowed, torch.inf).flatten()
        gone = flat.argsort(stable=True)[: upto[1] - upto[0]]
        return allowed.flatten().index_fill(0, gone, False).view(allowed.shape)


@dataclass(frozen=True)
class CheapestOfEach:
    """Removal of the cheapest of every `of` weights of a row, `apart` columns apart: as many as `kept` leaves out.

    With `across` the groups are `of` consecutive rows of a column instead.
    """

    kept: Tensor
    allowed: Tensor
    of: int
    apart: int = 1
    across: bool = False

    @property
    def span(self) -> int:
        """Number of columns of one group."""
        return 1 if self.across else self.of * self.apart

    def __call__(self, costs: Tensor, columns: slice) -> Tensor:
        """Return the mask of the most expensive of each group; the last of equals are kept."""
        costs = self._grouped(costs.masked_fill(~self.allowed[..., columns], -torch.inf))
        wanted = self._grouped(self.kept[..., columns]).sum(-2, keepdim=True)
        rank = costs.argsort(dim=-2, stable=True).argsort(dim=-2)
        kept = (rank >= self.of - wanted).flatten(-3)
        return kept.mT if self.across else kept

    def _grouped(self, tensor: Tensor) -> Tensor:
        along = tensor.mT if self.across else tensor
        return along.reshape(*along.shape[:-1], -1, self.of, self.apart)


@dataclass(frozen=True)
class Swept:
    """Result of a sweep: `weight`, exactly 0 outside of the mask `kept`; both [groups, rows, columns]."""

    weight: Tensor
    kept: Tensor


@dataclass(frozen=True)
class Hessian:
    """H + damping · mean(diag H) · 1, and the upper triangular `root` U with UᵀU = its inverse.

    All are [groups, columns, columns]. The inverse of H restricted to the columns from q on has the first row
    U_qq · U_q,: so one factor holds the inverses for all q.
    """

    matrix: Tensor
    root: Tensor
    damping: float

    @classmethod
    def of(cls, moment: Tensor, damping: float) -> Hessian:
        """Factor a second moment, symmetric positive semidefinite float64; see `secateur.linalg.damping`."""
        # H = R Rᵀ with R upper triangular is a Cholesky factorisation from the last column on; then U = R⁻¹
        matrix, lower, damping = damped(moment.flip(1, 2), damping)
        eye = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
        root = torch.linalg.solve_triangular(lower.flip(1, 2), eye.expand_as(lower), upper=True)
        return cls(matrix.flip(1, 2), root, damping)

    def solve(self, right: Tensor) -> Tensor:
        """Return H⁻¹ · right, [groups, columns, …]."""
        return self.root.mT @ (self.root @ right)


def sweep(weight: Tensor, hessian: Hessian, choice: ColumnSelector, block: int = 128) -> Swept:
    """Remove weights from the first column to the last, with an update of the later weights of the row.

    `weight` is [groups, rows, columns], the minimum of the loss. The removal of w_q, not kept by `choice`, adds
    −w_q / U_qq · U_q to the later weights, at a cost of ½ (w_q / U_qq)². Columns after a block of `block` (default 128)
    columns are updated once per block.

    >>> correlated = Hessian.of(torch.tensor([[[1.0, 0.5], [0.5, 1.0]]], dtype=torch.float64), 0.0)
    >>> kept = torch.tensor([[[False, True]]])
    >>> sweep(torch.ones(1, 1, 2, dtype=torch.float64), correlated, Given(kept)).weight
    tensor([[[0.0000, 1.5000]]], dtype=torch.float64)
    """
    weight, columns, root = weight.clone(), weight.shape[-1], hessian.root
    kept = torch.ones_like(weight, dtype=torch.bool)
    block = -(-max(1, block) // choice.span) * choice.span
    pivots = root.diagonal(dim1=1, dim2=2)[:, None]
    for start in range(0, columns, block):
        end = min(start + block, columns)
        errors = torch.zeros_like(weight[..., start:end])
        for at in range(start, end):
            if at % choice.span == 0:
                span = slice(at, min(at + choice.span, columns))
                kept[..., span] = choice((weight[..., span] / pivots[..., span]).square(), span)
            gone = weight[..., at].masked_fill(kept[..., at], 0) / pivots[..., at]
            errors[..., at - start] = gone
            weight[..., at:end].baddbmm_(gone[..., None], root[:, at, None, at:end], alpha=-1)
        weight[..., end:].baddbmm_(errors, root[:, start:end, end:], alpha=-1)
    return Swept(weight.masked_fill(~kept, 0), kept)


def refine(weight: Tensor, hessian: Hessian, least: Tensor, kept: Tensor, steps: int) -> Tensor:
    """Refine a sweep towards the minimum under its mask, by `steps` of conjugate gradients for each row.

    A sweep updates only weights after a removed one; here all kept ones are updated together. `least` is the minimum
    without a mask; all are [groups, rows, columns]. Each step costs one product with H, preconditioned by its diagonal
    (Boža 2024, Fast and Effective Weight Update for Pruned Large Language Models, poses the same problem).
    """
    scale, tiny = hessian.matrix.diagonal(dim1=1, dim2=2)[:, None], torch.finfo(weight.dtype).tiny
    missing = ((least - weight) @ hessian.matrix) * kept
    direction = missing / scale
    size = (missing * direction).sum(-1, keepdim=True)
    for _ in range(steps):
        moved = (direction @ hessian.matrix) * kept
        length = size / (direction * moved).sum(-1, keepdim=True).clamp(min=tiny)
        weight, missing = weight + length * direction, missing - length * moved
        size, before = (missing * missing / scale).sum(-1, keepdim=True), size
        direction = missing / scale + size / before.clamp(min=tiny) * direction
    return weight
