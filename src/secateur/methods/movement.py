"""Movement pruning: the weights that move away from zero during fine-tuning are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.methods.base import MethodJob
from secateur.methods.registry import method
from secateur.methods.scored import Penalised, ScoreGate, TopScores, straight_through


class MovementGate(ScoreGate):
    """m = 1 for the highest scores, ∂m/∂S = 1: S accumulates −η Σ ∂L/∂W′ ∘ W."""

    def opened(self) -> Tensor:
        """Return 1 for the blocks kept by the method."""
        return straight_through(self.kept, self.scores)


@method("movement", paper="Sanh et al. 2020")
class Movement(TopScores):
    """Keep the top of scores S with ∂L/∂S = ∂L/∂W′ ∘ W, in every matrix.

    The amount grows from `initial` by the cubic schedule between the fractions `begin` and `end` of the training.
    `scope` local ranks every matrix by itself, global all together; a `block` such as 32x32 or 1xall (rows) has one
    score. `score_lr` is the scores' learning rate, by default the optimiser's own: only their order matters.
    """

    gate = MovementGate

    def __init__(
        self,
        job: MethodJob,
        *,
        scope: str = "local",
        block: str = "1x1",
        begin: float = 0.1,
        end: float = 0.75,
        initial: float = 0.0,
        score_lr: float | None = None,
    ) -> None:
        super().__init__(
            job, scope=scope, block=block, begin=begin, end=end, initial=initial, score_lr=score_lr
        )


class SoftGate(ScoreGate):
    """m = 1 where σ(S) > τ, ∂m/∂S = 1. Scores begin at σ(S) = 0.9."""

    start = 2.197
    threshold: float

    def decided(self) -> Tensor:
        """Keep the blocks above the threshold."""
        return torch.sigmoid(self.scores.detach()) > self.threshold

    def opened(self) -> Tensor:
        """Return 1 for the blocks above the threshold."""
        return straight_through(self.decided(), self.scores)


@method("soft_movement", paper="Sanh et al. 2020")
class SoftMovement(Penalised):
    """Keep weights whose score is above a threshold, σ(S) > τ, and penalise λ · mean σ(S).

    The mean is that of the matrices' means (`weighting` matrix, as published), or over all scores (score). λ grows to
    `strength` between the fractions `begin` and `end`; it and the `threshold` τ determine the density. With an amount,
    exactly that fraction, of the lowest scores, is cut in the end. `scope`, `block` and `score_lr` as in movement, but
    the size of `score_lr` matters: 0.01 with Adam, ten or a hundred times more with SGD.
    """

    gate = SoftGate

    def __init__(
        self,
        job: MethodJob,
        *,
        strength: float = 100.0,
        weighting: str = "matrix",
        threshold: float = 0.1,
        scope: str = "global",
        block: str = "1x1",
        begin: float = 0.1,
        end: float = 0.75,
        score_lr: float | None = None,
    ) -> None:
        if not 0 < threshold < 1:
            raise InputError(f"The threshold {threshold!r} is compared with σ(S): give a number in (0, 1).")
        span: dict[str, Any] = {"begin": begin, "end": end, "threshold": threshold}
        span |= {"strength": strength, "weighting": weighting}
        super().__init__(job, scope=scope, block=block, score_lr=score_lr, **span)

    def cost(self, gate: ScoreGate) -> Tensor:
        """Return σ(S)."""
        return torch.sigmoid(gate.scores)
