"""An amount is spread exactly: the lowest units go, as many as asked for, and no group ever loses all."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.core.errors import InputError
from secateur.graph.groups import Group, Member
from secateur.pruning.allocate_units import SPREADS, most, spread

fast = settings(max_examples=150, deadline=None)
values = st.one_of(st.integers(0, 3).map(float), st.floats(0, 1e6, allow_subnormal=False))
tables = st.lists(st.lists(values, min_size=2, max_size=9), min_size=1, max_size=5)
amounts = st.floats(0, 1)
scopes = st.sampled_from(["local", "global", "isomorphic"])


def groups_of(table: list[list[float]]) -> tuple[list[Group], dict[str, Tensor]]:
    """Make a group of each row of scores; rows of equal length are of equal shape."""
    groups = [
        Group(f"{number}.weight", (Member(f"{number}.weight", 0, np.arange(len(row))),), np.arange(len(row)))
        for number, row in enumerate(table)
    ]
    scores = {
        group.name: torch.tensor(row, dtype=torch.float64) for group, row in zip(groups, table, strict=True)
    }
    return groups, scores


def cut(table: list[list[float]], amount: float, scope: str, **limits: float) -> list[list[int]]:
    """Spread an amount; return which units of each group go."""
    groups, scores = groups_of(table)
    masks = spread(groups, scores, amount, scope, **limits)
    assert list(masks) == [group.name for group in groups]
    assert all(
        mask.dtype == torch.bool and len(mask) == len(row)
        for mask, row in zip(masks.values(), table, strict=True)
    )
    return [(~mask).nonzero().flatten().tolist() for mask in masks.values()]


def lowest(table: list[list[float]], count: int, caps: list[int]) -> list[list[int]]:
    """The oracle: take units one by one, lowest first, within each group's cap."""
    ranking = sorted((x, g, u) for g, row in enumerate(table) for u, x in enumerate(row))
    gone: list[list[int]] = [[] for _ in table]
    for _, group, unit in ranking:
        if sum(map(len, gone)) < count and len(gone[group]) < caps[group]:
            gone[group].append(unit)
    return [sorted(units) for units in gone]


@fast
@given(tables, amounts, st.floats(0, 1))
def test_local_takes_the_same_fraction_of_every_group(
    table: list[list[float]], amount: float, max_amount: float
) -> None:
    for row, gone in zip(table, cut(table, amount, "local", max_amount=max_amount), strict=True):
        count = min(round(amount * len(row)), math.floor(max_amount * len(row)), len(row) - 1)
        order = sorted(range(len(row)), key=lambda unit: (row[unit], unit))
        assert gone == sorted(order[:count])


@fast
@given(tables, amounts, st.floats(0, 1))
def test_global_takes_the_lowest_of_all(table: list[list[float]], amount: float, max_amount: float) -> None:
    caps = [min(len(row) - 1, math.floor(max_amount * len(row))) for row in table]
    count = min(round(amount * sum(map(len, table))), sum(caps))
    gone = cut(table, amount, "global", max_amount=max_amount)
    assert sum(map(len, gone)) == count
    expected = lowest(table, count, caps)
    assert gone == expected


@fast
@given(tables, amounts)
def test_isomorphic_is_global_within_groups_alike(table: list[list[float]], amount: float) -> None:
    gone = cut(table, amount, "isomorphic")
    for size in {len(row) for row in table}:
        alike = [number for number, row in enumerate(table) if len(row) == size]
        assert [gone[number] for number in alike] == cut(
            [table[number] for number in alike], amount, "global"
        )


@fast
@given(tables, amounts, scopes, st.floats(0, 1), st.integers(1, 5))
def test_no_group_is_ever_emptied(
    table: list[list[float]], amount: float, scope: str, max_amount: float, round_to: int
) -> None:
    gone = cut(table, amount, scope, max_amount=max_amount, round_to=round_to)
    assert all(len(units) < len(row) for units, row in zip(gone, table, strict=True))
    assert all(
        len(units) <= len(row) - 1
        for units, row in zip(cut(table, 1.0, scope, round_to=round_to), table, strict=True)
    )


@fast
@given(tables, amounts, scopes, st.integers(2, 12), st.floats(0, 1))
def test_a_multiple_of_units_is_kept(
    table: list[list[float]], amount: float, scope: str, round_to: int, max_amount: float
) -> None:
    without = cut(table, amount, scope, max_amount=max_amount)
    rounded = cut(table, amount, scope, max_amount=max_amount, round_to=round_to)
    for row, before, after in zip(table, without, rounded, strict=True):
        least = len(row) - most(len(row), max_amount)
        allowed = [kept for kept in range(least, len(row) + 1) if kept % round_to == 0] or [len(row)]
        wanted = len(row) - len(before)
        assert len(row) - len(after) == min(allowed, key=lambda kept: (abs(kept - wanted), -kept))
        order = sorted(range(len(row)), key=lambda unit: (row[unit], unit))
        assert after == sorted(order[: len(after)])


@pytest.mark.parametrize(
    ("keep", "multiple"),
    [(1, 4), (4, 4), (5, 4), (6, 8), (7, 8), (9, 8), (10, 12), (14, 16), (15, 16), (17, 16), (18, 20)],
)
def test_the_nearest_multiple_is_kept_and_of_two_as_near_the_larger(keep: int, multiple: int) -> None:
    (gone,) = cut([[float(n) for n in range(20)]], 1 - keep / 20, "local", round_to=4)
    assert 20 - len(gone) == multiple


@pytest.mark.parametrize(("amount", "max_amount"), [(0.5, 0.5), (0.9, 0.3), (1.0, 0.1), (1.0, 0.0)])
def test_a_multiple_keeps_to_the_limit(amount: float, max_amount: float) -> None:
    (gone,) = cut([[float(n) for n in range(10)]], amount, "local", max_amount=max_amount, round_to=4)
    assert len(gone) <= max_amount * 10


@fast
@given(tables, amounts, scopes)
def test_more_takes_what_less_took(table: list[list[float]], amount: float, scope: str) -> None:
    less, more = cut(table, amount / 2, scope), cut(table, amount, scope)
    assert all(set(one) <= set(other) for one, other in zip(less, more, strict=True))


@pytest.mark.parametrize("scope", list(SPREADS))
def test_among_equals_the_first_goes(scope: str) -> None:
    assert cut([[2.0] * 6], 0.5, scope) == [[0, 1, 2]]
    assert cut([[0.0] * 4], 0.5, scope) == [[0, 1]]


@pytest.mark.parametrize("scope", list(SPREADS))
def test_nothing_and_everything(scope: str) -> None:
    table = [[3.0, 1.0, 2.0], [5.0, 4.0]]
    assert cut(table, 0.0, scope) == [[], []]
    assert cut(table, 1.0, scope) == [[1, 2], [1]]
    assert cut(table, 1.0, scope, max_amount=0.0) == [[], []]
    assert spread([], {}, 0.5, scope) == {}


def test_groups_of_another_shape_are_ranked_apart() -> None:
    groups, scores = groups_of([[1.0, 9.0, 9.0, 9.0], [1.0, 1.0, 1.0, 9.0]])
    assert [int((~mask).sum()) for mask in spread(groups, scores, 0.5, "isomorphic").values()] == [1, 3]
    other = Member("1.gain", 0, np.arange(4))
    groups[1] = Group(groups[1].name, (*groups[1].members, other), groups[1].roots)
    assert [int((~mask).sum()) for mask in spread(groups, scores, 0.5, "isomorphic").values()] == [2, 2]


@pytest.mark.parametrize("scope", list(SPREADS))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_cannot_be_ranked_are_refused(scope: str, bad: float) -> None:
    with pytest.raises(
        InputError, match=r"^The scores of 1\.weight hold NaN or infinity: they cannot be ranked\.$"
    ):
        cut([[1.0, 2.0], [1.0, bad]], 0.5, scope)


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(InputError, match=r"^There is no scope for units named 'erk': choose one of"):
        cut([[1.0, 2.0]], 0.5, "erk")


@pytest.mark.parametrize(("units", "share", "count"), [(10, 1.0, 9), (10, 0.5, 5), (3, 0.5, 1), (1, 1.0, 0)])
def test_how_many_may_go_at_most(units: int, share: float, count: int) -> None:
    assert most(units, share) == count
