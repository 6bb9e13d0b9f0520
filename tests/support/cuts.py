"""The cut a result was made by, read off its plan."""

from __future__ import annotations

import numpy as np
import torch

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
