"""Iterative pruning: the density after each round, and the scores of units brought back from round to round.

Units keep the places they have in the whole model. Scores found on the smaller model are brought back to them, and
units that are gone rank below those that are left. So the last round makes a cut of the whole model, which is
allocated, resized, proved and counted like any other, and only the scores tell that there were rounds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.options import check_least
from secateur.core.registry import Registry
from secateur.graph.couple import couple
from secateur.graph.cut import Cut
from secateur.graph.groups import Group, Groups, group
from secateur.graph.trace import trace
from secateur.measure.inputs import ModelInputs
from secateur.pruning.budget import Budget, LatencyBudget
from secateur.shrink.plan import Plan

DensitySchedule: TypeAlias = Callable[[float, float, float], float]
PATHS: Registry[DensitySchedule] = Registry("schedule of rounds")
"""Name → density after the fraction t of the rounds, from one density to another."""


@PATHS.register("exponential")
def exponential(start: float, end: float, t: float) -> float:
    """The same fraction of what is left goes in every round: start · (end / start)^t."""
    return start * (end / start) ** t if start else 0.0


@PATHS.register("linear")
def linear(start: float, end: float, t: float) -> float:
    """As many go in every round: start + (end − start) · t."""
    return start + (end - start) * t


Goal: TypeAlias = float | Budget | LatencyBudget
"""How much goes: the fraction of units to remove, or what may be left of a cost."""


def goals(goal: Goal, rounds: int | None, schedule: str) -> list[Goal]:
    """Return the goal of each of so many rounds, 1 for None, along a path of `PATHS`; the last is the goal itself.

    Raises `InputError` for a latency in more than one round, an unknown path or a number that makes no sense.
    """
    if isinstance(goal, float):
        return [*amounts(goal, rounds, schedule)]
    parts, path = _parts(rounds), PATHS[schedule]
    if isinstance(goal, Budget):
        return [*(replace(goal, fraction=path(1.0, goal.fraction, part)) for part in parts), goal]
    if parts:
        raise InputError(
            "A latency is met in one round: leave rounds out, or give a budget of macs or params instead."
        )
    return [goal]


def amounts(amount: float, rounds: int | None, schedule: str) -> list[float]:
    """Return the amount after each of so many rounds, as `goals` does.

    >>> amounts(0.875, 3, "exponential"), amounts(0.75, 3, "linear")
    ([0.5, 0.75, 0.875], [0.25, 0.5, 0.75])
    """
    path = PATHS[schedule]
    return [*(1 - path(1.0, 1 - amount, part) for part in _parts(rounds)), amount]


def _parts(rounds: int | None) -> list[float]:
    count = 1 if rounds is None else rounds
    check_least("number of rounds", count, 1)
    return [at / count for at in range(1, count)]


def scored_again(
    small: nn.Module,
    plan: Plan,
    cut: Cut,
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    score: Callable[[nn.Module, Groups, Sequence[Group]], Mapping[str, Tensor]],
    example_inputs: ModelInputs,
) -> dict[str, Tensor]:
    """Score what a cut has left and return, for all units of the whole model's `groups`, what ranks them now.

    `small` is what the cut's `plan` has made, `scores` are those it was made by, and `score` gives new ones of some of
    a model's groups.
    """
    left = group(couple(trace(small, example_inputs, training=True)))
    members = [(each.name, member) for each in groups for member in each.members]
    places: dict[tuple[str, int], list[tuple[str, Tensor]]] = defaultdict(list)
    for name, member in members:
        places[member.name, member.dim].append((name, torch.from_numpy(member.unit)))
    same = []  # (a group of the smaller model, its units, a group of the whole model, the same units there)
    for each in left.free:
        for member in each.members:
            kept = plan.kept.get(member.name, {}).get(member.dim)
            now = torch.from_numpy(member.unit)
            for name, unit in places[member.name, member.dim]:
                before = unit if kept is None else unit[kept]
                both = (now >= 0) & (before >= 0)
                same.append((each, now[both], name, before[both]))
    known = {each.name for each, *_ in same}
    found = score(small, left, [each for each in left.free if each.name in known]) if known else {}
    fresh = {each.name: torch.full_like(scores[each.name], torch.nan) for each in groups}
    for each, now, name, before in same:
        if each.name in found:
            fresh[name][before] = found[each.name][now]
    alive = torch.cat([torch.from_numpy(cut.alive[each.roots]) for each in groups])
    ranks = below(torch.cat([scores[name] for name in fresh]), torch.cat([*fresh.values()]), alive)
    return dict(zip(fresh, torch.split(ranks, [len(each) for each in fresh.values()]), strict=True))


def below(before: Tensor, now: Tensor, left: Tensor) -> Tensor:
    """Return the scores `now` of what is `left` and, below all of them and in its old order, what is gone.

    What is left and could not be scored, NaN, ranks with the highest.

    >>> scores = torch.tensor([1.0, 2.0, 5.0, 6.0]), torch.tensor([0.0, 0.0, 0.5, 0.25])
    >>> below(*scores, torch.tensor([False, False, True, True]))
    tensor([-1.7500, -0.7500,  0.5000,  0.2500])
    """
    found = now[left & now.isfinite()]
    if not len(found):
        return before
    now, gone = now.nan_to_num(nan=float(found.max())), before[~left]
    return torch.where(left, now, before - (gone.max() - found.min() + 1)) if len(gone) else now
