"""The criterion for cuts with reconstruction: the error left after a least-squares refit of a unit's readers."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.options import check_least
from secateur.criteria.readers import Reader
from secateur.criteria.registry import OBSERVED, criterion
from secateur.graph.labels import Vector
from secateur.linalg.damping import damped

OBSERVED.add("readers", "the inputs and outputs of what reads the units")


@criterion(
    "refit",
    elements={"units"},
    per="readers",
    moment="after",
    paper="Hassibi & Stork 1993, Optimal Brain Surgeon, for whole units with the layer-wise Hessian of "
    "Frantar & Alistarh 2022, Optimal Brain Compression, eq. 4",
)
def refit(readers: list[Reader], *, damping: float = 1e-3, steps: int = 128) -> Tensor:
    """Error without a unit after a least-squares refit of all its readers.

    Units are removed greedily, the cheapest first. Removal of the input block u of a unit from a product with weights
    M, [inputs, outputs], and H = E[xᵀx] raises its squared error by Mᵤᵀ ([H⁻¹]ᵤᵤ)⁻¹ Mᵤ, and updates M and H⁻¹. A unit's
    score is this rise when it is removed, as a fraction of the variance of the outputs (of the residual stream, if they
    are added to one), summed over all readers; raised to slightly more than the score of the unit removed before, if
    it is lower, so that any cut removes units in this order. Units are removed in at most `steps` (default 128) equal
    batches; `damping` (default 1e-3) is added to H, as a fraction of its mean diagonal. Raises `InputError` for `steps`
    below 1.

    Cost: a forward pass for each batch, and the inverse of the inputs' second moments of every product.
    """
    check_least("option steps of refit", steps, 1)
    solvers = [Solver(reader, damping) for reader in readers]
    units = readers[0].units
    order: list[Tensor] = []
    errors: list[Tensor] = []
    left = torch.arange(units)
    while len(left):
        costs = torch.stack([solver.costs(left) for solver in solvers]).sum(0).cpu()
        cheapest = costs.topk(min(len(left), math.ceil(units / steps)), largest=False)
        order.append(left[cheapest.indices])
        errors.append(cheapest.values)
        stay = torch.ones(len(left), dtype=torch.bool)
        stay[cheapest.indices] = False
        left = left[stay]
        if len(left):
            for solver in solvers:
                solver.remove(order[-1])
    # A running maximum alone would leave ties.
    apart = 1 + 2 * torch.finfo(torch.float64).eps * torch.arange(units, dtype=torch.float64)
    scores = torch.empty(units, dtype=torch.float64)
    scores[torch.cat(order)] = torch.cat(errors).cummax(0).values * apart
    return scores


class Solver:
    """One product: the costs of units, and their removal."""

    def __init__(self, reader: Reader, damping: float) -> None:
        lower = damped(reader.gram[None], damping).lower[0]
        self.variance = max(reader.variance, torch.finfo(torch.float64).tiny)
        sizes = np.bincount(reader.unit[reader.unit >= 0], minlength=reader.units)
        spare = int(sizes.max() - sizes.min())  # unread inputs pad the units that have fewer
        self.inverse = nn.functional.pad(torch.cholesky_inverse(lower), (0, spare, 0, spare))
        self.inverse.diagonal()[len(lower) :] = 1
        self.weight = nn.functional.pad(reader.weight, (0, 0, 0, spare))
        self.index = torch.from_numpy(_padded(reader.unit, sizes)).to(self.weight.device)

    def costs(self, units: Tensor) -> Tensor:
        """Return Mᵤᵀ ([H⁻¹]ᵤᵤ)⁻¹ Mᵤ, summed over outputs, divided by their variance, float64 [units]."""
        rows = self.index[units.to(self.index.device)]
        blocks = self.inverse[rows[:, :, None], rows[:, None]]
        weights = self.weight[rows]  # [units, block, outputs]
        solved = torch.linalg.solve(blocks, weights)
        costs: Tensor = (weights * solved).sum((1, 2)) / self.variance
        return costs

    def remove(self, units: Tensor) -> None:
        """Remove units, and refit the rest."""
        rows = self.index[units.to(self.index.device)].flatten()
        across = self.inverse[:, rows]
        solved = torch.linalg.solve(self.inverse[rows[:, None], rows], across.T)
        self.weight -= across @ torch.linalg.solve(self.inverse[rows[:, None], rows], self.weight[rows])
        self.inverse = self.inverse - across @ solved


def _padded(unit: Vector, sizes: Vector) -> Vector:
    """Return the inputs of each unit, [units, most]; shorter units are padded with the unread inputs at the end."""
    most = int(sizes.max())
    index = np.tile(len(unit) + np.arange(most)[::-1], (len(sizes), 1))
    order = np.argsort(unit, kind="stable")[np.count_nonzero(unit < 0) :]
    at = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    index[np.repeat(np.arange(len(sizes)), sizes), at] = order
    return index
