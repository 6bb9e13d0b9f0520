"""What a criterion says of the units of a group, tensor by tensor, and how that becomes one number a unit.

A *view* is how a criterion looks at a group: at every weight, at the rows of what produces it, at its feature maps.
A criterion names its view when it is registered; a view is added by registering a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.core.registry import Registry
from secateur.criteria import CalibrationBatches, Criterion
from secateur.graph.coupling import Coupling
from secateur.graph.groups import Group, Member
from secateur.shrink.plan import named_tensors
from secateur.sparsity.targets import DTYPES, role


class ScorePart(NamedTuple):
    """Of one tensor dimension: the sum of scores of each unit, float64 [units], and of how many scores it is."""

    total: Tensor
    counted: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean score of each unit, 0 where there is none."""
        return self.total / self.counted.clamp(min=1)


@dataclass(frozen=True)
class Question:
    """What is to be scored, by which criterion, and what it may look at."""

    model: nn.Module
    groups: Sequence[Group]
    criterion: Criterion
    options: Mapping[str, Any] = field(default_factory=dict)
    coupling: Coupling | None = None
    example_inputs: Any = None
    data: CalibrationBatches | None = None
    seed: int = 0

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return name → floating-point parameter of all that the groups run through."""
        needed = {member.name for group in self.groups for member in group.members}
        return {
            name: tensor
            for name, tensor in named_tensors(self.model).items()
            if name in needed and isinstance(tensor, nn.Parameter) and tensor.dtype in DTYPES
        }

    def roles(self) -> dict[str, str]:
        """Return name → role of every parameter; see `secateur.sparsity.targets`."""
        return {
            f"{path}.{leaf}" if path else leaf: role(module, leaf, parameter)
            for path, module in self.model.named_modules()
            for leaf, parameter in module.named_parameters(recurse=False)
        }


ScoreParts = dict[str, list[ScorePart]]
"""Group name → what was found in each of its tensors, in the order of its members."""

VIEWS: Registry[Callable[[Question], ScoreParts]] = Registry("view of units")

REDUCTIONS: Registry[Callable[[Sequence[ScorePart]], Tensor]] = Registry("reduction")


@REDUCTIONS.register("mean")
def mean(parts: Sequence[ScorePart]) -> Tensor:
    """Mean over all scores of a unit: units of wide and narrow layers can be compared."""
    return ScorePart(_sum([part.total for part in parts]), _sum([part.counted for part in parts])).mean


@REDUCTIONS.register("sum")
def total(parts: Sequence[ScorePart]) -> Tensor:
    """Sum over all scores of a unit: all that would go."""
    return _sum([part.total for part in parts])


@REDUCTIONS.register("max")
def largest(parts: Sequence[ScorePart]) -> Tensor:
    """Largest of the tensors' means: a unit stays if it matters anywhere."""
    return torch.stack([part.mean for part in parts]).amax(0)


@REDUCTIONS.register("first")
def first(parts: Sequence[ScorePart]) -> Tensor:
    """Mean in the first tensor alone, which is what makes the unit: most papers' filter criteria."""
    return parts[0].mean


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)


def gather(member: Member, units: int, scores: Tensor, counts: Tensor | None = None) -> ScorePart:
    """Bring scores of a dimension's indices, [indices], to the units they belong to."""
    unit = torch.from_numpy(member.unit)
    inside = unit >= 0
    scores = scores.detach().double().cpu()
    counts = torch.ones_like(scores) if counts is None else counts.double()
    return ScorePart(
        torch.zeros(units, dtype=torch.float64).index_add_(0, unit[inside], scores[inside]),
        torch.zeros(units, dtype=torch.float64).index_add_(0, unit[inside], counts[inside]),
    )
