"""L0 regularisation by hard concrete gates, which are mostly exactly 0 or 1 and have a gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secateur.methods.base import MethodJob
from secateur.methods.registry import method
from secateur.methods.scored import Penalised, ScoreGate

LOW, HIGH, BETA = -0.1, 1.1, 2 / 3
"""γ and ζ, the limits of the stretched concrete distribution, and β, its temperature (Louizos et al. 2018)."""


class HardConcrete(ScoreGate):
    """z = clip(s (ζ − γ) + γ, 0, 1) with s = σ((log u − log(1 − u) + S)/β), u uniform; S is log α (eq. 10)."""

    start = 2.197

    def opened(self) -> Tensor:
        """Return gates drawn at random in training, and with s = σ(S) otherwise (eq. 13)."""
        if not self.training:
            return self._stretched(torch.sigmoid(self.scores))
        u = self.drawn().to(self.scores.dtype)
        return self._stretched(torch.sigmoid((torch.log(u) - torch.log1p(-u) + self.scores) / BETA))

    def decided(self) -> Tensor:
        """Keep the gates above 0 without noise."""
        return self.settled(torch.ones_like(self.kept)) > 0

    def settled(self, kept: Tensor) -> Tensor:
        """Return the gates without noise, to be multiplied into the weights."""
        return self._stretched(torch.sigmoid(self.scores.detach())) * kept

    @staticmethod
    def _stretched(s: Tensor) -> Tensor:
        return (s * (HIGH - LOW) + LOW).clamp(0, 1)


@method("l0", paper="Louizos et al. 2018")
class L0(Penalised):
    """Multiply weights by hard concrete gates and penalise λ · mean P(z > 0), the expected density.

    P(z > 0) = σ(S − β log(−γ/ζ)) (eq. 12). λ grows to `strength` between the fractions `begin` and `end`, and
    determines the density. With an amount, exactly that fraction, of the lowest scores, is cut in the end. The gates'
    final values are multiplied into the weights. `weighting`, `scope`, `block` and `score_lr` as in soft_movement.
    """

    gate = HardConcrete

    def __init__(
        self,
        job: MethodJob,
        *,
        strength: float = 100.0,
        weighting: str = "matrix",
        scope: str = "global",
        block: str = "1x1",
        begin: float = 0.1,
        end: float = 0.75,
        score_lr: float | None = None,
    ) -> None:
        super().__init__(
            job,
            strength=strength,
            weighting=weighting,
            scope=scope,
            block=block,
            begin=begin,
            end=end,
            score_lr=score_lr,
        )

    def cost(self, gate: ScoreGate) -> Tensor:
        """Return P(z > 0)."""
        return torch.sigmoid(gate.scores - BETA * math.log(-LOW / HIGH))
