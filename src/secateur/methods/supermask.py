"""Masks learned on a network of constant weights: edge-popup and supermasks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secateur.methods.base import MethodJob
from secateur.methods.draws import uniform
from secateur.methods.registry import method
from secateur.methods.scored import ScoreBased, ScoreGate, TopScores, straight_through


class EdgeGate(ScoreGate):
    """m = 1 for the highest |S|, ∂m/∂|S| = 1; scores begin uniform in ±1/√(fan in)."""

    def initial(self, weight: Tensor) -> Tensor:
        """Return the first scores, uniform in ±1/√(fan in)."""
        means = self.blocks.means(weight)
        bound = 1 / math.sqrt(max(1, weight[0].numel() if weight.ndim > 1 else weight.numel()))
        return (2 * uniform(means.shape, weight.device, "scores", self.seed, self.name) - 1) * bound

    def opened(self) -> Tensor:
        """Return 1 for the blocks kept by the method."""
        return straight_through(self.kept, self.scores.abs())

    def ranks(self) -> Tensor:
        """Return |S|."""
        return self.scores.detach().abs()


@method("edge_popup", paper="Ramanujan et al. 2020")
class EdgePopup(TopScores):
    """Learn which weights of a random network to keep, the top of |S| in every layer; the weights stay as they are.

    All other parameters of the model are frozen; BatchNorm's statistics are still updated. `scope`, `block` and
    `score_lr` as in movement, but the scores start at random, so the size of `score_lr` matters.
    """

    gate = EdgeGate
    frozen = True

    def __init__(
        self, job: MethodJob, *, scope: str = "local", block: str = "1x1", score_lr: float | None = None
    ) -> None:
        span = {"begin": 0.0, "end": 0.0, "initial": job.amount}
        super().__init__(job, scope=scope, block=block, score_lr=score_lr, **span)


class SupermaskGate(ScoreGate):
    """m ~ Bernoulli(σ(S)), ∂m/∂σ = 1; m = 1 where σ(S) > ½ outside training. With `rescale` times n/Σm."""

    rescale: bool

    def opened(self) -> Tensor:
        """Return a mask drawn at random in training, and `decided` otherwise."""
        chance = torch.sigmoid(self.scores)
        mask = self.drawn() < chance if self.training else self.decided()
        return self._scaled(straight_through(mask, chance), mask)

    def decided(self) -> Tensor:
        """Keep the blocks with σ(S) > ½."""
        return self.scores.detach() > 0

    def settled(self, kept: Tensor) -> Tensor:
        """Return the mask, with the scale if `rescale`."""
        return self._scaled(kept.to(self.scores.dtype), kept)

    def _scaled(self, factors: Tensor, mask: Tensor) -> Tensor:
        return factors * (mask.numel() / mask.sum().clamp(min=1)) if self.rescale else factors


@method("supermask", paper="Zhou et al. 2019")
class BernoulliSupermask(ScoreBased):
    """Learn a mask drawn from Bernoulli(σ(S)) on a random network; the weights stay as they are.

    With `rescale` the weights of a layer are multiplied by their number over the number kept. The density follows
    from the scores, or exactly from the amount. `scope`, `block` and `score_lr` as in soft_movement; the scores need
    a large `score_lr`.
    """

    gate = SupermaskGate
    frozen = True
    amount = "optional"

    def __init__(
        self,
        job: MethodJob,
        *,
        rescale: bool = True,
        scope: str = "global",
        block: str = "1x1",
        score_lr: float | None = None,
    ) -> None:
        super().__init__(job, scope=scope, block=block, score_lr=score_lr, rescale=rescale)
