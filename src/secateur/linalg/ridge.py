"""Ridge regression from running sums, without storing the rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.linalg.damping import damped


@dataclass(frozen=True)
class Fitted:
    """A solution: `weight`, float64 [groups, inputs, outputs], `bias`, float64 [groups, outputs] or None.

    `before` and `after` are the squared errors of the old and the new solution as fractions of the targets' variance
    (of their sum of squares without a bias), `damping` is the one applied.
    """

    weight: Tensor
    bias: Tensor | None
    before: float
    after: float
    damping: float


class Squares:
    """The sums of a least-squares fit, float64, over any number of rows; independent for each of `groups`."""

    def __init__(self, inputs: int, outputs: int, groups: int, device: torch.device) -> None:
        def zeros(*size: int) -> Tensor:
            return torch.zeros(groups, *size, dtype=torch.float64, device=device)

        self.count = 0
        self.gram, self.cross = zeros(inputs, inputs), zeros(inputs, outputs)
        self.input, self.output, self.energy = zeros(inputs), zeros(outputs), zeros(outputs)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Add rows of any float dtype: inputs [groups, rows, inputs], outputs [groups, rows, outputs]."""
        x, y = inputs.double(), outputs.double()
        self.count += x.shape[1]
        self.gram.baddbmm_(x.mT, x)
        self.cross.baddbmm_(x.mT, y)
        self.input += x.sum(1)
        self.output += y.sum(1)
        self.energy += y.square().sum(1)

    def moments(self, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return XᵀX [groups, inputs, inputs], XᵀY [groups, inputs, outputs] and diag YᵀY [groups, outputs].

        With `centred`, X and Y are taken less their means. Raises `InputError` if the rows hold NaN or infinity.
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
        """Return the least-squares b, [groups, outputs], for W = `weight`, [groups, inputs, outputs]."""
        return (self.output - (self.input[:, None] @ weight).squeeze(1)) / max(1, self.count)

    def solve(self, weight: Tensor, bias: Tensor | None, damping: float) -> Fitted:
        """Minimise ‖X W + b − Y‖² + damping · mean(diag XᵀX) · ‖W − weight‖².

        `weight` is [groups, inputs, outputs], `bias` [groups, outputs], or None for a fit without b. Damping is raised
        tenfold until the equations can be solved. Raises `InputError` if the rows hold NaN or infinity, or the damping
        is negative.
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
