"""Targeted dropout: the smallest weights are dropped at random in training, and cut afterwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.methods.base import Clock, Method, MethodJob
from secateur.methods.draws import uniform
from secateur.methods.gates import Gate, Gates
from secateur.methods.registry import method
from secateur.pruning.allocate_weights import allocate, check_amount
from secateur.sparsity.masks import Masks


class TargetedGate(Gate):
    """In training, sets each of the weights that are not `spared` to 0 with probability `rate`."""

    def __init__(self, name: str, spared: Tensor, rate: float, clock: Clock, seed: int) -> None:
        super().__init__()
        self.name, self.spared, self.rate, self.clock, self.seed = name, spared, rate, clock, seed

    def factors(self, weight: Tensor) -> Tensor:
        """Return 0 for dropped weights, drawn anew at every step, and 1 for others; all 1 outside training."""
        if not self.training:
            return torch.ones_like(weight)
        purpose = ("targeted", self.seed, self.clock.step, self.name)
        return self.spared | (uniform(weight.shape, weight.device, *purpose) >= self.rate)


@method("targeted_dropout", paper="Gomez et al. 2019")
class TargetedDropout(Method):
    """Drop each of the smallest weights with probability `rate` in training, and cut them in the end.

    The smallest are the fraction `amount` of |θ| of each output (`scope="row"`, as in the paper), or as spread by
    another scope of `secateur.prune`, updated after every step.
    """

    reshapes = True

    def __init__(self, job: MethodJob, *, rate: float = 0.5, scope: str = "row") -> None:
        super().__init__(job)
        self.scope = scope
        self.targets = job.targets()
        rate = check_amount(rate)
        self.gates = {
            name: TargetedGate(name, spared, rate, self.clock, job.seed)
            for name, spared in self._spared().items()
        }
        self._installed = Gates(job.model, self.targets, self.gates)

    def attach(self) -> None:
        """Register the hooks, and install the gates."""
        super().attach()
        self._installed.install()

    def release(self) -> None:
        """Remove the gates."""
        self._installed.remove()

    def after_step(self) -> None:
        """Update the smallest weights."""
        self._target()

    def restore(self, state: object) -> None:
        """Update the smallest weights."""
        self._target()

    def cut(self) -> Masks:
        """Cut the smallest weights."""
        return self._spared()

    def _target(self) -> None:
        for name, spared in self._spared().items():
            self.gates[name].spared = spared

    def _spared(self) -> Masks:
        if self.scope == "row":
            rows = {name: highest_of_rows(t, self.job.amount) for name, t in self.targets.items()}
            return Masks(rows)
        magnitudes = {name: target.detach().abs() for name, target in self.targets.items()}
        return allocate(magnitudes, self.job.amount, self.scope)


def highest_of_rows(weight: nn.Parameter, amount: float) -> Tensor:
    """Return the mask, of the weight's shape, that cuts the smallest round(amount · n) of the n |θ| of each output."""
    rows = weight.detach().abs().reshape(weight.shape[0] if weight.ndim else 1, -1)
    order = rows.argsort(dim=1, stable=True)
    gone = order[:, : round(amount * rows.shape[1])]
    kept = torch.ones_like(rows, dtype=torch.bool).scatter_(1, gone, False)
    return kept.reshape(weight.shape)
