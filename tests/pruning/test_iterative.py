"""Rounds of cutting units, against cutting one smaller model after the other."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_by_hand import ByHand
from hypothesis import given
from hypothesis import strategies as st
from structural_zoo import CASES
from torch import Tensor, nn

import secateur
from secateur import CRITERIA, InputError, Pruned, prune
from secateur.pruning.iterative import amounts, below


class Residual(nn.Module):
    """Convolutions in residual blocks, so that there are channels of several groups and layers to skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(6, width) for width in (4, 8, 8, 5, 7)))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, wide: int, inner: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(wide, inner, 3, padding=1), nn.Conv2d(inner, wide, 3, padding=1)
        self.norm = nn.BatchNorm2d(inner)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(torch.relu(self.norm(self.one(x))))


def case(kind: str) -> tuple[nn.Module, Tensor, list[tuple[Tensor, Tensor]]]:
    """A model, example inputs, and labelled data."""
    torch.manual_seed(3)
    model = ByHand() if kind == "head" else Residual()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    x = torch.randn(12, 5, 12) if kind == "head" else torch.randn(12, 2, 6, 6)
    y = torch.randint(3, (12,))
    return model.eval().double(), x[:2].double(), [(x[:8].double(), y[:8]), (x[8:].double(), y[8:])]


def uncorrected(kind: str) -> dict[str, Any]:
    """Without corrections, which several cuts would make several times."""
    return {} if kind == "layer" else {"correct": False}


def cut(kind: str, **more: Any) -> Pruned:
    model, inputs, data = case(kind)
    given: dict[str, Any] = {"criterion": "taylor", "amount": 0.5, "data": data, **more}
    return prune(model, inputs, granularity=kind, **uncorrected(kind), **given)


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


KINDS = pytest.mark.parametrize("kind", ["channel", "head", "layer"])
PAIRS = [
    ("channel", {"criterion": "taylor"}),
    ("channel", {"criterion": "magnitude", "normalization": "none"}),
    ("channel", {"criterion": "hrank"}),
    ("channel", {"criterion": "fpgm", "reduction": "first", "normalization": "l2"}),
    ("head", {"criterion": "head_importance", "normalization": "l2"}),
    ("head", {"criterion": "head_loss", "normalization": "none"}),
    ("head", {"criterion": "taylor"}),
    ("layer", {"criterion": "taylor"}),
    ("layer", {"criterion": "magnitude"}),
]


@pytest.mark.parametrize(("kind", "how"), PAIRS, ids=lambda each: str(each))
@pytest.mark.parametrize("schedule", ["exponential", "linear"])
def test_rounds_are_cuts_of_one_smaller_model_after_the_other(
    kind: str, how: dict[str, Any], schedule: str
) -> None:
    """An oracle that makes, measures and cuts every model on the way by itself; exact k of the units there were."""
    amount, rounds = (0.4 if kind == "channel" else 0.6), 3
    whole = cut(kind, amount=amount, rounds=rounds, schedule=schedule, **how)
    units = (
        sum(group.units for group in whole.groups.free if kind == "channel" or group.heads)
        if whole.groups
        else 5
    )
    density = [
        (1 - amount) ** (at / rounds) if schedule == "exponential" else 1 - amount * at / rounds
        for at in (1, 2, 3)
    ]
    model, inputs, data = case(kind)
    gone = 0
    for each in density:
        going = round((1 - each) * units) - gone
        now = {"amount": going / (units - gone), "data": data, **uncorrected(kind), **how}
        model = prune(model, inputs, granularity=kind, **now).model
        gone += going
    assert same(whole.model, model)
    assert whole.achieved == gone / units == round(amount * units) / units


@pytest.mark.parametrize("kind", ["channel", "head"])
def test_scoring_again_makes_a_difference(kind: str) -> None:
    """Else the tests here could not fail."""
    assert not same(cut(kind, rounds=3, amount=0.6).model, cut(kind, amount=0.6).model)


@KINDS
def test_one_round_is_what_there_was(kind: str) -> None:
    plain, once = cut(kind), cut(kind, rounds=1)
    assert same(plain.model, once.model)
    assert plain.choices == once.choices
    assert plain.choices["rounds"] == 1


@KINDS
def test_rounds_of_a_criterion_for_weights_are_not_asked_of_units(kind: str) -> None:
    assert CRITERIA["synflow"].rounds == 100
    assert cut(kind, criterion="synflow").choices["rounds"] == 1


@KINDS
def test_the_result_is_one_cut_of_the_whole_model(kind: str, tmp_path: Path) -> None:
    model, inputs, data = case(kind)
    before = copy.deepcopy(model)
    result = cut(kind, rounds=3)
    again = cut(kind, rounds=3)
    assert same(result.model, again.model)
    assert result.verification is not None
    assert result.verification.error < 1e-9
    assert result.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (before, result.model))
    assert result.choices["rounds"] == 3
    path = tmp_path / "small.safetensors"
    secateur.save(result.model, path)
    loaded = case(kind)[0]
    secateur.load(path, loaded)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(inputs), result.model(inputs), rtol=0, atol=0)
    inplace = prune(
        model,
        inputs,
        granularity=kind,
        criterion="taylor",
        amount=0.5,
        rounds=3,
        data=iter(data),
        inplace=True,
        **uncorrected(kind),
    )
    assert inplace.model is model
    assert same(model, result.model)


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("rounds", [1, 2, 5, 30])
@pytest.mark.parametrize(("amount", "max_amount"), [(0.3, 1.0), (0.75, 0.5), (0.9, 1.0), (1.0, 0.7)])
def test_as_many_go_as_in_one_round(scope: str, rounds: int, amount: float, max_amount: float) -> None:
    """Amounts and floors count units of the whole model, however many rounds it takes."""
    result = cut("channel", scope=scope, rounds=rounds, amount=amount, max_amount=max_amount)
    once = cut("channel", scope=scope, amount=amount, max_amount=max_amount)
    assert result.achieved == once.achieved
    assert result.groups is not None
    for group in result.groups.free:
        assert result.kept[group.name] >= max(1, group.units - math.floor(max_amount * group.units))
    if scope == "local":
        assert result.kept == once.kept


def test_multiples_are_kept_in_rounds() -> None:
    result = cut("channel", rounds=4, round_to=2)
    assert result.groups is not None
    assert all(result.kept[each.name] % 2 == 0 for each in result.groups.free if each.units >= 2)


@pytest.mark.parametrize("kind", ["channel", "head"])
@pytest.mark.parametrize("cost", ["params", "macs"])
def test_a_budget_is_met_in_rounds(kind: str, cost: str) -> None:
    once = cut(kind, amount=None, budget={cost: 0.6})
    result = cut(kind, amount=None, budget={cost: 0.6}, rounds=3)
    for each in (once, result):
        before, after = each.parameters if cost == "params" else each.macs  # type: ignore[misc]
        assert after <= 0.6 * before
    assert result.choices["budget"] == {cost: 0.6}
    assert result.verification is not None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"rounds": 0}, "The number of rounds is 0: give a whole number from 1"),
        ({"rounds": True}, "The number of rounds is True"),
        ({"rounds": 2.0}, "The number of rounds is 2.0"),
        ({"rounds": 2, "schedule": "sudden"}, "There is no schedule of rounds named 'sudden'"),
    ],
)
@KINDS
def test_nonsense_is_refused(kind: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        cut(kind, **more)


def test_a_latency_is_met_in_one_round() -> None:
    with pytest.raises(InputError, match="A latency is met in one round: leave rounds out"):
        cut("channel", amount=None, budget={"latency_ms": 5.0}, rounds=2)


@pytest.mark.parametrize("name", CASES)
def test_any_architecture_is_followed_from_round_to_round(name: str) -> None:
    """Units of the smaller models are found again in the whole one, whatever the code does."""
    one, other = CASES[name](), CASES[name]()
    once = prune(one.model, one.inputs, granularity="channel", amount=0.5, scope="local")
    result = prune(other.model, other.inputs, granularity="channel", amount=0.5, scope="local", rounds=3)
    assert result.kept == once.kept
    assert result.verification is not None


@given(
    st.lists(
        st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.booleans(), st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_what_is_gone_ranks_below_what_is_left(units: list[tuple[float, float, bool, bool]]) -> None:
    before, now, left, seen = (torch.tensor(each) for each in zip(*units, strict=True))
    ranks = below(before.double(), now.double().masked_fill(~seen, torch.nan), left)
    assert ranks.isfinite().all()
    if (left & seen).any():
        assert torch.equal(ranks[left & seen], now.double()[left & seen])
        assert (ranks[left & ~seen] == now[left & seen].double().max()).all()
        if not left.all():
            assert ranks[~left].max() < ranks[left].min()
            torch.testing.assert_close(ranks[~left].diff(), before[~left].double().diff(), rtol=0, atol=1e-9)
    else:
        assert torch.equal(ranks, before.double())


@given(st.floats(0, 1), st.integers(1, 20), st.sampled_from(["exponential", "linear"]))
def test_amounts_grow_to_the_last_exactly(amount: float, rounds: int, schedule: str) -> None:
    found = amounts(amount, rounds, schedule)
    assert len(found) == rounds
    assert found[-1] == amount
    assert all(0 <= one <= other + 1e-12 for one, other in itertools.pairwise(found))
