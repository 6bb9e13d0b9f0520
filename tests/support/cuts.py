"""The cut a result was made by, read off its plan."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from secateur.graph.cut import Cut
from secateur.pruning.result import Pruned


def cut_of(result: Pruned) -> Cut:
    """Return the cut a result was made by: the units whose indices its plan keeps."""
    assert result.plan is not None
    assert result.groups is not None
    units = []
    for group in result.groups.free:
        member, keep = group.members[0], np.zeros(group.units, dtype=bool)
        kept = result.plan.kept.get(member.name, {}).get(member.dim, torch.arange(len(member.unit)))
        inside = member.unit[kept.numpy()]
        keep[inside[inside >= 0]] = True
        units.append((group, keep))
    return Cut.of(result.groups.coupling, units)


@torch.no_grad()
def zero_what_went(model: nn.Module, result: Pruned) -> nn.Module:
    """Set the entries of a large model's parameters that a cut removed to zero, and return the model."""
    assert result.plan is not None
    parameters = dict(model.named_parameters())
    for name, dims in result.plan.kept.items():
        for dim, stay in dims.items():
            gone = torch.ones(parameters[name].shape[dim], dtype=torch.bool)
            gone[stay] = False
            parameters[name].index_fill_(dim, gone.nonzero().flatten(), 0)
    return model
