"""L0 regularisation: gates that are exactly 0 or 1 most of the time, and still have a gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secateur.methods.base import MethodJob
from secateur.methods.registry import method
from secateur.methods.scored import Penalised, ScoreGate

LOW, HIGH, BETA = -0.1, 1.1, 2 / 3
"""γ, ζ and β of the paper: how far the concrete distribution is stretched, and its temperature."""


class HardConcrete(ScoreGate):
    """z = clip(s (ζ − γ) + γ, 0, 1) with s = σ((log u − log(1 − u) + S)/β), u uniform; S is log α (eq. 10)."""

    start = 2.197

    def opened(self) -> Tensor:
        """Draw gates in training; take σ(S) for s otherwise (eq. 13)."""
        if not self.training:
            return self._stretched(torch.sigmoid(self.scores))
        u = self.drawn().to(self.scores.dtype)
        return self._stretched(torch.sigmoid((torch.log(u) - torch.log1p(-u) + self.scores) / BETA))

    def decided(self) -> Tensor:
        """Keep what is not closed for sure."""
        return self.settled(torch.ones_like(self.kept)) > 0

    def settled(self, kept: Tensor) -> Tensor:
        """Leave the gates' values without noise in the weights."""
        return self._stretched(torch.sigmoid(self.scores.detach())) * kept

    @staticmethod
    def _stretched(s: Tensor) -> Tensor:
        return (s * (HIGH - LOW) + LOW).clamp(0, 1)


@method("l0", paper="Louizos et al. 2018")
class L0(Penalised):
    """Multiply weights by hard concrete gates and penalise λ · mean P(z > 0), the expected number that is left.

    P(z > 0) = σ(S − β log(−γ/ζ)) (eq. 12). λ grows to `strength` between the fractions `begin` and `end`; how much is
    left follows from it. With an amount the lowest scores go in the end, exactly so many. What the gates came to is
    multiplied into the weights. `scope`, `block` and `score_lr` as in soft_movement.
    """

    gate = HardConcrete

    def __init__(
        self,
        job: MethodJob,
        *,
        strength: float = 100.0,
        scope: str = "global",
        block: str = "1x1",
        begin: float = 0.1,
        end: float = 0.75,
        score_lr: float | None = None,
    ) -> None:
        super().__init__(
            job, strength=strength, scope=scope, block=block, begin=begin, end=end, score_lr=score_lr
        )

    def cost(self, gate: ScoreGate) -> Tensor:
        """Return P(z > 0)."""
        return torch.sigmoid(gate.scores - BETA * math.log(-LOW / HIGH))
