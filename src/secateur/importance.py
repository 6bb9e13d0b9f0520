"""Scores of units from scores of weights.

A unit is a set of indices in several tensors. Its score is the mean of the criterion's score over all weights that
would go with it, so that units of a wide layer and of a narrow one can be compared. A weight that goes with a unit by
several of its indices, such as w[i, i] of a state that is carried on, is one weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.criteria import Batches, measured, score
from secateur.graph.groups import Group, Member
from secateur.shrink.plan import named_tensors
from secateur.targets import DTYPES


def unit_scores(
    model: nn.Module,
    groups: Iterable[Group],
    criterion: str,
    *,
    data: Batches | None = None,
    seed: int = 0,
    **options: Any,
) -> dict[str, Tensor]:
    """Score every unit: group name → float64 [units], lowest goes first.

    `data` are batches for a criterion that needs them, `options` the criterion's own. Raises `InputError` for a
    criterion that does not score units, or an option it does not have.
    """
    groups = list(groups)
    parameters = {
        name: tensor
        for name, tensor in named_tensors(model).items()
        if isinstance(tensor, nn.Parameter) and tensor.dtype in DTYPES
    }
    needed = {member.name for group in groups for member in group.members if member.name in parameters}
    parameters = {name: tensor for name, tensor in parameters.items() if name in needed}
    weights = score(
        criterion,
        parameters,
        seed=seed,
        granularity="channel",
        measured=measured(criterion, model, parameters, data),
        **options,
    )
    profiles: dict[tuple[str, int], Tensor] = {}
    return {group.name: _mean(group, weights, profiles) for group in groups}


def _mean(group: Group, weights: Mapping[str, Tensor], profiles: dict[tuple[str, int], Tensor]) -> Tensor:
    """Average the weights' scores over each unit."""
    total = torch.zeros(group.units, dtype=torch.float64)
    count = torch.zeros(group.units, dtype=torch.float64)
    for at, member in enumerate(group.members):
        if member.name not in weights:
            continue
        tensor = weights[member.name]
        earlier = [other for other in group.members[:at] if other.name == member.name]
        key = member.name, member.dim
        if earlier:
            summed, sizes = _not_counted_yet(tensor, member, earlier)
        else:
            if key not in profiles:
                profiles[key] = _along(tensor, member.dim)
            summed, sizes = profiles[key], torch.full((len(member.unit),), tensor.numel() // len(member.unit))
        unit = torch.from_numpy(member.unit)
        inside = unit >= 0
        total.index_add_(0, unit[inside], summed[inside])
        count.index_add_(0, unit[inside], sizes[inside].double())
    return total / count.clamp(min=1)


def _not_counted_yet(tensor: Tensor, member: Member, earlier: Iterable[Member]) -> tuple[Tensor, Tensor]:
    """Sum the scores along a member's dimension, without weights that `earlier` dimensions give to the same unit.

    Returns the sums and how many weights each is of.
    """

    def units(each: Member) -> Tensor:  # [1, …, n, …, 1]
        return (
            torch.from_numpy(each.unit)
            .to(tensor.device)
            .view([-1 if d == each.dim else 1 for d in range(tensor.ndim)])
        )

    fresh = torch.ones_like(tensor, dtype=torch.bool)
    for other in earlier:
        fresh &= units(other) != units(member)
    return _along(tensor.masked_fill(~fresh, 0), member.dim), _along(fresh, member.dim)


def _along(tensor: Tensor, dim: int) -> Tensor:
    """Sum over all dimensions but one: float64, on the CPU."""
    others = [other for other in range(tensor.ndim) if other != dim]
    return (tensor.sum(others, dtype=torch.float64) if others else tensor.double()).cpu()
