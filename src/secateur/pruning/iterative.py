"""Iterative pruning: the density after each round, and scores of units carried from round to round.

Units are indexed by their position in the whole model. Scores of the smaller model are mapped back to these indices,
and removed units rank below all kept ones. So the last round is one cut of the whole model, allocated, resized,
verified and counted like a cut in one round; only its scores differ.
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
from secateur.measure.examples import Examples
from secateur.measure.inputs import ModelInputs
from secateur.pruning.budget import Budget, LatencyBudget
from secateur.shrink.plan import Plan

DensitySchedule: TypeAlias = Callable[[float, float, float], float]
PATHS: Registry[DensitySchedule] = Registry("schedule of rounds")
"""Name → schedule: (start density, end density, fraction t of the rounds) → density."""


@PATHS.register("exponential")
def exponential(start: float, end: float, t: float) -> float:
    """The same fraction of the remaining entries is cut in every round: start · (end / start)^t."""
    return start * (end / start) ** t if start else 0.0


@PATHS.register("linear")
def linear(start: float, end: float, t: float) -> float:
    """The same number of entries is cut in every round: start + (end − start) · t."""
    return start + (end - start) * t


Goal: TypeAlias = float | Mapping[str, float] | Budget | LatencyBudget
"""Fraction of units to remove, of all or of each group, or a budget."""


def goals(goal: Goal, rounds: int | None, schedule: str) -> list[Goal]:
    """Return the goal of each round by a schedule of `PATHS`; the last is `goal` itself. None is one round.

    Raises `InputError` for a latency budget in more than one round, an unknown schedule or fewer than one round.
    """
    if isinstance(goal, float):
        return [*amounts(goal, rounds, schedule)]
    if isinstance(goal, Mapping):
        steps = {name: amounts(amount, rounds, schedule) for name, amount in goal.items()}
        return [dict(zip(steps, row, strict=True)) for row in zip(*steps.values(), strict=True)]
    parts, path = _parts(rounds), PATHS[schedule]
    if isinstance(goal, Budget):
        return [*(replace(goal, fraction=path(1.0, goal.fraction, part)) for part in parts), goal]
    if parts:
        raise InputError(
            "A latency is met in one round: leave rounds out, or give a budget of macs or params instead."
        )
    return [goal]


def amounts(amount: float, rounds: int | None, schedule: str) -> list[float]:
    """Return the amount after each round, as `goals` does.

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
    example_inputs: ModelInputs | Examples,
) -> dict[str, Tensor]:
    """Score the units that a cut kept and return scores for all units of the whole model, group name → [units].

    `small` is the model made by the `plan` of the cut, `scores` are the scores of the cut, and `score` computes new
    ones for some groups of a model. Removed units rank below all others, by `below`.
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
    """Return the scores `now` of units `left`, and the scores `before` of the removed units shifted below all of them.

    Shapes [units]; `left` is boolean. Units left that could not be scored, NaN, get the highest score.

    >>> scores = torch.tensor([1.0, 2.0, 5.0, 6.0]), torch.tensor([0.0, 0.0, 0.5, 0.25])
    >>> below(*scores, torch.tensor([False, False, True, True]))
    tensor([-1.7500, -0.7500,  0.5000,  0.2500])
    """
    found = now[left & now.isfinite()]
    if not len(found):
        return before
    now, gone = now.nan_to_num(nan=float(found.max())), before[~left]
    return torch.where(left, now, before - (gone.max() - found.min() + 1)) if len(gone) else now
