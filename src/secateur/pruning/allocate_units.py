"""Distribution of an amount over groups of units.

The lowest-scored units are removed first, exactly round(amount · n) of them, ties broken by position. Every group
keeps at least one unit and loses at most the fraction `max_amount`. With `round_to`, every group keeps the nearest
multiple of it, the larger of two equally near; a group that can keep no multiple of it stays whole.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.registry import Registry
from secateur.graph.groups import Group
from secateur.pruning.allocate_weights import keep_highest

Scores = Mapping[str, Tensor]
UnitMasks = dict[str, Tensor]
UnitScope = Callable[[Sequence[Group], Scores, float, float], UnitMasks]

SPREADS: Registry[UnitScope] = Registry("scope for units")


def spread(
    groups: Sequence[Group],
    scores: Scores,
    amount: float | Mapping[str, float],
    scope: str,
    *,
    max_amount: float = 1.0,
    round_to: int | None = None,
) -> UnitMasks:
    """Return group name → boolean [units], True for kept units.

    `scores` maps group names to tensors [units]; `amount` and `max_amount` are fractions in [0, 1], or `amount` maps
    every group to its own, in any scope; one of 0 stays whole. Raises `InputError` for an unknown scope, or scores
    that are NaN or infinite.
    """
    for name, tensor in scores.items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"The scores of {name} hold NaN or infinity: they cannot be ranked.")
    own = amount if isinstance(amount, Mapping) else dict[str, float]()
    masks = (
        {k: v for each in groups for k, v in local([each], scores, own[each.name], max_amount).items()}
        if isinstance(amount, Mapping)
        else SPREADS[scope](groups, scores, amount, max_amount)
    )
    if round_to and round_to > 1:
        for name, mask in masks.items():
            if own.get(name) == 0:
                continue
            kept, units = int(mask.count_nonzero()), len(mask)
            wanted = multiple(kept, round_to, units - most(units, max_amount), units)
            masks[name] = keep_highest(scores[name], units - wanted)
    return masks


def multiple(kept: int, of: int, least: int, units: int) -> int:
    """Return the multiple of `of` in [least, units] nearest to `kept`, the larger of two; `units` if there is none.

    >>> multiple(9, 4, 1, 20), multiple(10, 4, 1, 20), multiple(20, 16, 1, 20), multiple(5, 16, 1, 12)
    (8, 12, 16, 12)
    """
    lowest, highest = math.ceil(least / of), units // of
    nearest = math.floor(kept / of + 0.5)
    return min(max(lowest, nearest), highest) * of if max(lowest, 1) <= highest else units


def most(units: int, max_amount: float) -> int:
    """Return the largest number of `units` that may be removed: at least one is kept."""
    return min(units - 1, math.floor(max_amount * units))


def local(groups: Sequence[Group], scores: Scores, amount: float, max_amount: float) -> UnitMasks:
    """The same fraction of every group."""
    return {
        group.name: keep_highest(
            scores[group.name], min(round(amount * group.units), most(group.units, max_amount))
        )
        for group in groups
    }


def ranked(groups: Sequence[Group], scores: Scores, amount: float, max_amount: float) -> UnitMasks:
    """All units ranked together."""
    safe = []
    for group in groups:
        values = scores[group.name]
        floor = keep_highest(values, most(group.units, max_amount))
        safe.append(torch.where(floor, torch.inf, values))
    if not safe:
        return {}
    joined = torch.cat(safe)
    removable = int(joined.isfinite().sum())
    kept = keep_highest(joined, min(round(amount * len(joined)), removable))
    parts = torch.split(kept, [group.units for group in groups])
    return {group.name: part for group, part in zip(groups, parts, strict=True)}


def isomorphic(groups: Sequence[Group], scores: Scores, amount: float, max_amount: float) -> UnitMasks:
    """Units ranked together only with those of groups of the same shape: as many units, members alike."""
    classes: dict[tuple[object, ...], list[Group]] = defaultdict(list)
    for group in groups:
        alike = sorted((m.name.rpartition(".")[2], m.dim, len(m.unit)) for m in group.members)
        key = group.units, tuple(alike)
        classes[key].append(group)
    masks: UnitMasks = {}
    for alike_groups in classes.values():
        masks |= ranked(alike_groups, scores, amount, max_amount)
    return {group.name: masks[group.name] for group in groups}


SPREADS.add("local", local)
SPREADS.add("global", ranked)
SPREADS.add("isomorphic", isomorphic)
