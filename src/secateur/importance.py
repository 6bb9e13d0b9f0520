"""Scores of units from scores of weights.

A unit is a set of indices in several tensors. Its score is the mean of the criterion's score over all weights that
would go with it, so that units of a wide layer and of a narrow one can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.criteria import Batches, measured, score
from secateur.graph.groups import Group
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
    for member in group.members:
        if member.name not in weights:
            continue
        tensor = weights[member.name]
        key = member.name, member.dim
        if key not in profiles:
            others = [dim for dim in range(tensor.ndim) if dim != member.dim]
            summed = tensor.sum(others, dtype=torch.float64) if others else tensor.double()
            profiles[key] = summed.cpu()
        unit = torch.from_numpy(member.unit)
        inside = unit >= 0
        size = tensor.numel() // tensor.shape[member.dim]
        total.index_add_(0, unit[inside], profiles[key][inside])
        count.index_add_(0, unit[inside], torch.full((int(inside.sum()),), float(size), dtype=torch.float64))
    return total / count.clamp(min=1)
