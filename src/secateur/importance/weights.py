"""View of units: all weights that are removed with a unit.

A weight that belongs to a unit by several of its indices, such as w[i, i] of a recurrent state, counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from secateur.criteria import measured, score
from secateur.graph.groups import Group, Member
from secateur.importance.parts import VIEWS, Question, ScorePart, ScoreParts, gather


@VIEWS.register("weight")
def weight_parts(question: Question) -> ScoreParts:
    """Sum the scores of a unit's weights in each of its tensors."""
    with question.as_used() as used:
        return _weight_parts(used)


def _weight_parts(question: Question) -> ScoreParts:
    parameters = question.parameters()
    name = question.criterion.name
    weights = score(
        name,
        parameters,
        seed=question.seed,
        granularity="channel",
        measured=measured(
            name,
            question.model,
            parameters,
            question.data,
            example_inputs=question.example_inputs,
            seed=question.seed,
            **question.options,
        ),
        **question.options,
    )
    profiles: dict[tuple[str, int], Tensor] = {}
    return {group.name: list(sums(group, weights, profiles)) for group in question.groups}


def sums(
    group: Group, weights: Mapping[str, Tensor], profiles: dict[tuple[str, int], Tensor]
) -> Iterable[ScorePart]:
    """Yield the sums of scores in each unit, tensor by tensor, with each weight counted once.

    `weights` are scores of the weights' shapes, by name; `profiles` is a cache of sums shared between groups.
    """
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
        yield gather(member, group.units, summed, sizes)


def _not_counted_yet(tensor: Tensor, member: Member, earlier: Iterable[Member]) -> tuple[Tensor, Tensor]:
    """Sum the scores along a member's dimension, without weights that `earlier` dimensions assign to the same unit.

    Returns the sums and the number of weights in each.
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
