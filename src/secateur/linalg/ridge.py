"""Ridge regression from sums: rows are added as they come, and never kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.linalg.damping import damped


@dataclass(frozen=True)
class Fitted:
    """A solution: `weight`, float64 [groups, inputs, outputs], `bias`, float64 [groups, outputs] or None.

    `before` and `after` are the squared errors as a fraction of the targets' variance, `damping` what was needed.
    """

    weight: Tensor
    bias: Tensor | None
    before: float
    after: float
    damping: float


class Squares:
    """The sums that a least-squares fit needs, float64, of any number of rows; independent for each of `groups`."""

    def __init__(self, inputs: int, outputs: int, groups: int, device: torch.device) -> None:
        def zeros(*size: int) -> Tensor:
            return torch.zeros(groups, *size, dtype=torch.float64, device=device)

        self.count = 0
        self.gram, self.cross = zeros(inputs, inputs), zeros(inputs, outputs)
        self.input, self.output, self.energy = zeros(inputs), zeros(outputs), zeros(outputs)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Add rows: inputs [groups, rows, inputs], outputs [groups, rows, outputs]."""
        x, y = inputs.double(), outputs.double()
        self.count += x.shape[1]
        self.gram.baddbmm_(x.mT, x)
        self.cross.baddbmm_(x.mT, y)
        self.input += x.sum(1)
        self.output += y.sum(1)
        self.energy += y.square().sum(1)

    def moments(self, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return XᵀX, XᵀY and the diagonal of YᵀY, of what differs from its mean where `centred`.

        Raises `InputError` where the rows hold NaN.
        """
        if not bool(self.gram.isfinite().all() & self.cross.isfinite().all()):
            raise InputError("The activations on this data hold NaN or infinity: look at the inputs.")
        if not centred:
            return self.gram, self.cross, self.energy
        mean = self.input / max(1, self.count)
        return (
            self.gram - self.input[:, :, None] * mean[:, None],
            self.cross - mean[:, :, None] * self.output[:, None],
            self.energy - self.output.square() / max(1, self.count),
        )

    def shift(self, weight: Tensor) -> Tensor:
        """Return the best b to a W, [groups, outputs]."""
        return (self.output - (self.input[:, None] @ weight).squeeze(1)) / max(1, self.count)

    def solve(self, weight: Tensor, bias: Tensor | None, damping: float) -> Fitted:
        """Minimise ‖X W + b − Y‖² + damping · mean(diag XᵀX) · ‖W − weight‖².

        `weight` is [groups, inputs, outputs]; without `bias`, [groups, outputs], there is no b. Where the equations
        can't be solved, damping is raised tenfold until they can. Raises `InputError` where the rows hold NaN.
        """
        weight = weight.double()
        gram, cross, energy = self.moments(bias is not None)
        found = damped(gram, damping)
        step = torch.cholesky_solve(cross - gram @ weight, found.lower)
        fitted = weight + step
        shift = None if bias is None else self.shift(fitted)
        variance = float(energy.sum().clamp(min=1e-300))
        before, after = (
            float(self.errors(w, b).sum()) / variance for w, b in ((weight, bias), (fitted, shift))
        )
        return Fitted(fitted, shift, before, after, found.damping)

    def errors(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return ‖X W + b − Y‖² for each output, [groups, outputs]."""
        total = self.energy + (weight * (self.gram @ weight - 2 * self.cross)).sum(1)
        if bias is not None:
            bias = bias.double()
            through = (self.input[:, None] @ weight).squeeze(1)
            total = total + bias * (2 * through - 2 * self.output + self.count * bias)
        return total.clamp(min=0)
