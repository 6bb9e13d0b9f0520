"""A failed proof names the group and the operator at fault; retries that took long are told."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import VerificationError
from secateur.pruning.blame import narrowed
from secateur.pruning.result import Retry
from secateur.shrink.plan import Plan

X = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (nn.Linear(16, 16), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(16, 3)).eval()


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any, Plan], None]], None]:
    """Have every smaller model spoiled by a function of it and its plan."""

    def spoiling(change: Callable[[Any, Plan], None]) -> None:
        for module in ("shrink.make", "pruning.blame", "pruning.layers"):
            home = importlib.import_module(f"secateur.{module}")
            apply = home.apply

            def spoiled(model: nn.Module, plan: Plan, apply: Any = apply, **how: Any) -> nn.Module:
                small: nn.Module = apply(model, plan, **how)
                with torch.no_grad():
                    change(small, plan)
                return small

            monkeypatch.setattr(home, "apply", spoiled)

    return spoiling


def test_the_group_and_the_operator_at_fault_are_named(spoil: Any) -> None:
    def change(small: Any, plan: Plan) -> None:
        if 0 in plan.kept.get("6.weight", {}):
            small[6].bias.mul_(1.5)

    spoil(change)
    cut = {"granularity": "channel", "amount": 0.5}
    with pytest.raises(VerificationError) as error:
        secateur.prune(deep(), X, **cut)
    assert "differs from the large one" in str(error.value)
    assert "first in addmm in 6 (" in str(error.value)
    assert "the group 6.weight that can't be cut; leave it out with keep=['6.weight']" in str(error.value)
    assert secateur.prune(deep(), X, keep=["6.weight"], **cut).verification.error < 1e-9


def test_groups_that_fail_together_are_named_together(spoil: Any) -> None:
    def change(small: Any, plan: Plan) -> None:
        if 0 in plan.kept.get("0.weight", {}) and 0 in plan.kept.get("14.weight", {}):
            small[16].bias.add_(1.0)

    spoil(change)
    with pytest.raises(
        VerificationError, match=r"groups 0\.weight, .* can't be cut together; .* keep=\['0\.weight'\]"
    ):
        secateur.prune(deep(), X, granularity="channel", amount=0.5, scope="local")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Any:
        return x + self.inner(x)


def test_the_block_at_fault_is_named(spoil: Any) -> None:
    def change(small: Any, plan: Plan) -> None:
        if "2" in plan.skipped:
            small[-1].bias.add_(1.0)

    spoil(change)
    model = nn.Sequential(*(Block() for _ in range(4)), nn.Linear(16, 3)).eval()
    named = {"granularity": "layer", "amount": 1.0, "layers": ["0", "2", "3"]}
    with pytest.raises(
        VerificationError, match=r"the block 2 that can't be cut; leave it out with keep=\['2'\]"
    ):
        secateur.prune(model, X, **named)
    assert list(secateur.prune(model, X, keep=["2"], **named).plan.skipped) == ["0", "3"]


@pytest.mark.parametrize("guilty", range(9))
def test_the_guilty_one_is_found_in_few_trials(guilty: int) -> None:
    trials = []

    def fails(part: Sequence[str]) -> bool:
        trials.append(part)
        return str(guilty) in part

    assert narrowed([str(number) for number in range(9)], fails) == [str(guilty)]
    assert len(trials) <= 8


class Fixed(nn.Module):
    """Its code takes no other size in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        if y.shape[1] != 12:
            raise ValueError("twelve, please")
        return self.c(self.b(y).relu())


def test_retries_are_kept_with_their_places_and_told_if_they_took_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = secateur.prune(Fixed().eval(), X, granularity="channel", amount=0.5)
    assert len(result.retries) == 1
    assert result.retries[0].seconds > 0
    assert "torch.nn.functional.linear in a (" in result.retries[0].places[0]
    assert "did not follow" not in result.summary()
    monkeypatch.setattr("secateur.pruning.result.RETRIES_TOLD", result.retries[0].seconds / 2)
    assert "s went into 1 cuts that the code did not follow, at:\n" in result.summary()
    assert result.retries[0].places[0] in result.summary()
    assert isinstance(result.retries[0], Retry)
