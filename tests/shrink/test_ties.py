"""Scores that tie: the order of equal ones is no difference, and a wrong cut is refused all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from cuts import cut_of
from torch import Tensor, nn

import secateur
from secateur.core.errors import VerificationError
from secateur.shrink.verify import verify

HALF: dict[str, Any] = {"granularity": "channel", "amount": 0.5, "scope": "local"}


class Picks(nn.Module):
    """Takes some of its places by scores that are all the same but for rounding, or by a score of their own."""

    def __init__(self, pick: Callable[[Tensor], Tensor], tied: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pick, self.tied = pick, tied
        self.stem, self.score, self.head = nn.Linear(16, 64), nn.Linear(64, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).tanh()
        score = self.score(h)[:, 0]
        if self.tied:
            score = 1 + score - ((h * self.score.weight).sum(1) + self.score.bias)
        return self.head(x)[self.pick(score)]


BOXES = torch.tensor([[0.0, 0.0, 2.0, 2.0]]).repeat(40, 1) + torch.arange(40.0)[:, None] / 20
PICKS: dict[str, Callable[[Tensor], Tensor]] = {
    "top": lambda s: s.topk(5)[1],
    "sorted": lambda s: s.sort(descending=True)[1][:5],
    "largest": lambda s: s.argmax(keepdim=True),
    "smallest and where": lambda s: s.min(0, keepdim=True)[1],
    "threshold": lambda s: s > 1,
    "boxes": lambda s: torchvision.ops.nms(BOXES.to(s.dtype), s, 0.5),
    "rounded": lambda s: (s - 0.5).round().long().cumsum(0) % 40,
}
X = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PICKS)
def test_ties_are_no_difference(name: str) -> None:
    result = secateur.prune(Picks(PICKS[name]), X, **HALF)
    assert result.verification is not None
    assert result.verification.error < 1e-9
    assert result.model.stem.weight.shape == (32, 16)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", [name for name in PICKS if name != "rounded"])
def test_a_wrong_score_is_refused(name: str, tied: bool) -> None:
    model = Picks(PICKS[name], tied)
    result = secateur.prune(model, X, **HALF)
    cut = cut_of(result)
    assert verify(model, result.model, cut, X).error < 1e-9
    with torch.no_grad():
        if tied:
            result.model.pick = lambda score: PICKS[name](score + torch.arange(40.0).flip(0).to(score) / 100)
        else:
            result.model.score.weight.neg_()
    with pytest.raises(VerificationError, match=r"differs from the large one|could not be compared"):
        verify(model, result.model, cut, X)


def test_another_threshold_is_no_tie() -> None:
    model = Picks(lambda score: score < 8.0, tied=False)
    result = secateur.prune(model, X, **HALF)
    result.model.pick = lambda score: score < -0.1
    with pytest.raises(VerificationError):
        verify(model, result.model, cut_of(result), X)
