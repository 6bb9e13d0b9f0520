"""A budget is met: the cost foretold is the one measured, and what is left of the budget is less than a unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from structural_zoo import CASES
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError
from secateur.graph.cut import Cut
from secateur.measure.cost import cost
from secateur.pruning import units
from secateur.pruning.budget import BUDGET_COSTS, TRIALS, Budget, LatencyBudget, meet, meet_latency, read


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", CASES)
def test_what_is_foretold_is_what_is_measured(name: str) -> None:
    case = CASES[name]()
    before = parameters(case.model), cost(case.model, case.inputs).macs
    result = secateur.prune(case.model, case.inputs, granularity="channel", amount=0.4, scope="local")
    assert result.parameters == (before[0], parameters(result.model))
    assert result.macs == (before[1], cost(result.model, case.inputs).macs)


def small_networks() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(24, 4, 40, batch_first=True)
    return {
        "mlp": (
            nn.Sequential(nn.Linear(8, 60), nn.ReLU(), nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 3)),
            torch.randn(2, 8),
        ),
        "convnet": (
            nn.Sequential(
                nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 30, 3, stride=2), nn.ReLU(),
                nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(120, 5),
            ),
            torch.randn(1, 3, 12, 12),
        ),
        "encoder": (nn.Sequential(nn.Linear(6, 24), encoder, nn.Linear(24, 2)), torch.randn(2, 5, 6)),
        "few and wide units": (
            nn.Sequential(nn.Linear(30, 3), nn.ReLU(), nn.Linear(3, 50), nn.ReLU(), nn.Linear(50, 2)),
            torch.randn(2, 30),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("fraction", [0.9, 0.5, 0.25])
@pytest.mark.parametrize("kind", list(BUDGET_COSTS))
@pytest.mark.parametrize("name", small_networks())
def test_a_budget_is_met_within_a_percent_or_a_unit(
    name: str, kind: str, fraction: float, scope: str
) -> None:
    model, inputs = small_networks()[name]
    result = secateur.prune(
        model, inputs, granularity="channel", budget={kind: fraction}, scope=scope, verify=False
    )
    whole, left = result.macs if kind == "macs" else result.parameters
    target = fraction * whole
    assert left <= target
    measured = parameters(result.model) if kind == "params" else cost(result.model, inputs).macs
    assert measured == left
    if left < 0.99 * target:
        for more in one_unit_more(result):
            assert BUDGET_COSTS[kind](more) > target


def one_unit_more(result: Any) -> Iterator[Cut]:
    """Yield the cuts that leave one more unit than a result, for each group; which unit does not matter to the cost."""
    groups = result.groups
    for one in groups.free:
        if result.kept[one.name] < one.units:
            counts = {group.name: result.kept[group.name] + (group is one) for group in groups.free}
            yield Cut.of(groups.coupling, [(g, np.arange(g.units) < counts[g.name]) for g in groups.free])


def test_a_budget_of_all_takes_nothing() -> None:
    model, inputs = small_networks()["mlp"]
    for kind in BUDGET_COSTS:
        result = secateur.prune(model, inputs, granularity="channel", budget={kind: 1.0}, scope="global")
        assert parameters(result.model) == parameters(model)


def test_a_budget_and_limits_are_kept_together() -> None:
    model, inputs = small_networks()["mlp"]
    result = secateur.prune(
        model,
        inputs,
        granularity="channel",
        budget={"params": 0.5},
        scope="global",
        max_amount=0.6,
        round_to=4,
    )
    assert result.parameters[1] <= 0.5 * result.parameters[0]
    for group in result.groups.free:
        assert result.kept[group.name] % 4 == 0
        assert result.kept[group.name] >= 0.4 * group.units


def test_a_budget_is_a_fraction_of_the_whole_model_whatever_the_multiple() -> None:
    model, inputs = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2)), torch.randn(2, 4)
    result = secateur.prune(
        model, inputs, granularity="channel", budget={"params": 0.81}, scope="local", round_to=8
    )
    assert result.kept["0.weight"] == 8  # 58 of 72 parameters, 0.806


@pytest.mark.parametrize("kind", list(BUDGET_COSTS))
def test_a_budget_that_nothing_meets_is_refused_with_what_is_left(kind: str) -> None:
    model, inputs = small_networks()["mlp"]
    with pytest.raises(InputError, match=rf"^The budget {kind}=0\.001 can't be met: .*, 0\.0\d+ is left"):
        secateur.prune(model, inputs, granularity="channel", budget={kind: 0.001}, scope="local")


@dataclass
class Line:
    """A cutter of one group of `units` units, for costs that are a function of how many are left."""

    units: int
    asked: int = 0

    def masks(self, amount: float) -> dict[str, Tensor]:
        self.asked += 1
        return {"g": torch.arange(self.units) >= round(amount * (self.units - 1))}

    def cut(self, masks: Mapping[str, Tensor]) -> Any:
        return int(masks["g"].sum())

    def restored(self, masks: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        gone = (~masks["g"]).nonzero().flatten()
        if len(gone):
            more = masks["g"].clone()
            more[gone[-1]] = True
            yield {"g": more}


@pytest.mark.parametrize("fraction", [0.011, 0.1, 0.505, 0.99, 1.0])
def test_whole_units_fill_a_budget(monkeypatch: pytest.MonkeyPatch, fraction: float) -> None:
    monkeypatch.setitem(BUDGET_COSTS._items, "units", lambda left: left)
    assert meet(Budget("units", fraction), Line(100)) == int(fraction * 100)


def fake_time(noise: float = 0.0) -> Any:
    """Milliseconds of a cut: 2 and a tenth for each unit that is left, a little more or less each time."""
    calls: list[int] = []

    def time(left: int) -> float:
        calls.append(left)
        return 2 + 0.1 * left + noise * (-1) ** len(calls)

    time.calls = calls
    return time


@pytest.mark.parametrize("milliseconds", [2.2, 3.0, 7.0, 11.9, 20.0])
def test_a_latency_is_met_as_nearly_as_the_trials_allow(milliseconds: float) -> None:
    time = fake_time()
    left = meet_latency(LatencyBudget(milliseconds), Line(100), time)
    assert 2 + 0.1 * left <= milliseconds
    best = min(100, int((milliseconds - 2) / 0.1 + 1e-9))
    assert best - left <= 1 + 100 / 2**TRIALS
    assert len(time.calls) == TRIALS + 1


def test_what_is_chosen_kept_the_budget_when_it_was_timed() -> None:
    time = fake_time(noise=0.3)
    left = meet_latency(LatencyBudget(7.0), Line(100), time)
    assert left in time.calls
    assert 2 + 0.1 * left - 0.3 <= 7.0


def test_a_latency_that_nothing_meets_is_refused_with_the_fastest() -> None:
    with pytest.raises(
        InputError, match=r"^The budget of 2 ms can't be met: .* a pass takes 2\.1 ms; keep fewer"
    ):
        meet_latency(LatencyBudget(2.0), Line(100), fake_time())


def test_a_model_is_made_smaller_until_it_is_fast_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []

    def latency(small: nn.Module, inputs: Tensor, batches: tuple[int, ...], **_: Any) -> tuple[Any]:
        assert small(inputs).shape == (2, 3)
        timed.append((parameters(small), batches))
        return (SimpleNamespace(median=parameters(small) * 1e-6),)

    monkeypatch.setattr(units, "latency", latency)
    model, inputs = small_networks()["mlp"]
    result = secateur.prune(
        model, inputs, granularity="channel", budget={"latency_ms": 1.5, "batch": 7}, scope="global"
    )
    assert 1350 <= parameters(result.model) <= 1500 < parameters(model)
    assert len(timed) == TRIALS + 1
    assert {batches for _, batches in timed} == {(7,)}
    assert result.verification.error <= 1e-9
    with pytest.raises(InputError, match=r"^The budget of 0\.001 ms can't be met"):
        secateur.prune(model, inputs, granularity="channel", budget={"latency_ms": 0.001}, scope="global")


def test_budgets_are_read() -> None:
    assert read({"macs": 0.5}) == Budget("macs", 0.5)
    assert read({"params": 1}) == Budget("params", 1.0)
    assert read({"latency_ms": 3}) == LatencyBudget(3.0, 1)
    assert read({"latency_ms": 3.5, "batch": 8}) == LatencyBudget(3.5, 8)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({}, "A budget names one cost"),
        ({"macs": 0.5, "params": 0.5}, "A budget names one cost"),
        ({"flops": 0.5}, "There is no budget named 'flops': choose one of latency_ms, macs, params"),
        ({"macs": 0}, "The budget macs=0 is no fraction"),
        ({"macs": 1.5}, "The budget macs=1.5 is no fraction"),
        ({"macs": -0.5}, "The budget macs=-0.5 is no fraction"),
        ({"macs": float("nan")}, "The budget macs=nan is no fraction"),
        ({"macs": "0.5"}, "The budget macs='0.5' is no fraction"),
        ({"macs": True}, "The budget macs=True is no fraction"),
        ({"macs": None}, "The budget macs=None is no fraction"),
        ({"latency_ms": 0}, "A latency budget is"),
        ({"latency_ms": -1}, "A latency budget is"),
        ({"latency_ms": float("nan")}, "A latency budget is"),
        ({"latency_ms": 3, "batch": 0}, "A latency budget is"),
        ({"latency_ms": 3, "batch": 1.5}, "A latency budget is"),
        ({"latency_ms": 3, "macs": 0.5}, "A latency budget is"),
        ({"latency_ms": "fast"}, "A latency budget is"),
        ({"latency_ms": None}, "A latency budget is"),
        ({"latency_ms": 3, "batch": "all"}, "A latency budget is"),
        ({"latency_ms": 3, "batch": None}, "A latency budget is"),
        ({"latency_ms": float("inf")}, "A latency budget is"),
        ({"latency_ms": 3, "batch": float("inf")}, "A latency budget is"),
        (0.5, "A budget names one cost"),
        ("macs", "A budget names one cost"),
        (["macs", 0.5], "A budget names one cost"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(budget: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        read(budget)
    assert str(error.value).startswith(words)
