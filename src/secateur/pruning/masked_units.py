"""Units whose weights are all masked by torch.nn.utils.prune: they go before all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.core.computed import computed_tensors, plain
from secateur.core.modules import named_parameters
from secateur.graph.groups import Group, Member
from secateur.importance.parts import gather, groups_as_used, roles_in
from secateur.importance.rows import producers, rows_of


def masked_units(model: nn.Module, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Return for each group with a masked tensor which of its units no weight makes any more, boolean [units]."""
    masked = {each.name for each in computed_tensors(model) if each.mask}
    if not masked:
        return {}
    used = groups_as_used(model, groups)
    with plain(model):
        parameters, roles = dict(named_parameters(model)), roles_in(model)
        makers = {group.name: (group, producers(group, roles)) for group in used}
        return {
            name: _energy(group, [(m, parameters[m.name]) for m in members]) == 0
            for name, (group, members) in makers.items()
            if any(member.name in masked for member in members)
        }


def _energy(group: Group, makers: Sequence[tuple[Member, Tensor]]) -> Tensor:
    """Return the sum of absolute values of the weights that make each unit."""
    parts = [gather(m, group.units, rows_of(tensor, m.dim).abs().sum(1)).total for m, tensor in makers]
    return torch.stack(parts).sum(0)


def ranked_first(scores: Mapping[str, Tensor], gone: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return scores of units in which those that are `gone` rank below all others."""
    least = min((float(each.min()) for each in scores.values()), default=0.0)
    low = least - max(1.0, abs(least))
    return {
        name: each.masked_fill(gone[name], low) if name in gone else each for name, each in scores.items()
    }
