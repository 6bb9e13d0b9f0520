"""Scores of a group's units per tensor, and their reduction to one number for each unit.

A *view* is the input of a criterion for units: every weight, the rows of the producing weights, the feature maps, ….
A criterion names its view in its registration; a view is a function registered in `VIEWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.core.computed import plain, plain_names
from secateur.core.modules import named_modules, named_parameters
from secateur.core.registry import Registry
from secateur.criteria import CalibrationBatches, Criterion
from secateur.graph.coupling import Coupling
from secateur.graph.groups import Group, Member
from secateur.shrink.plan import named_tensors
from secateur.sparsity.targets import DTYPES, role


class ScorePart(NamedTuple):
    """Scores along one tensor dimension: their sum in each unit and their number, both float64 [units].

    `makes` tells whether the tensor makes the units, and does not read, shift or scale them; True for activations.
    """

    total: Tensor
    counted: Tensor
    makes: bool = True

    @property
    def mean(self) -> Tensor:
        """Mean score of each unit, float64 [units]; 0 for a unit without one."""
        return self.total / self.counted.clamp(min=1)


@dataclass(frozen=True)
class Question:
    """The arguments of a view: the groups to score, the criterion with its options, and the model, trace and data."""

    model: nn.Module
    groups: Sequence[Group]
    criterion: Criterion
    options: Mapping[str, Any] = field(default_factory=dict)
    coupling: Coupling | None = None
    example_inputs: Any = None
    data: CalibrationBatches | None = None
    seed: int = 0

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return name → parameter, for all floating-point parameters of the groups."""
        needed = {member.name for group in self.groups for member in group.members}
        return {
            name: tensor
            for name, tensor in named_tensors(self.model).items()
            if name in needed and isinstance(tensor, nn.Parameter) and tensor.dtype in DTYPES
        }

    def roles(self) -> dict[str, str]:
        """Return name → role of every parameter; see `secateur.sparsity.targets`."""
        return roles_in(self.model)

    @contextmanager
    def as_used(self) -> Iterator[Question]:
        """Ask the question of the tensors that modules work with, where they compute some from parameters."""
        groups = groups_as_used(self.model, self.groups)
        with plain(self.model):
            yield replace(self, groups=groups)


def groups_as_used(model: nn.Module, groups: Sequence[Group]) -> list[Group]:
    """Return groups with the names of tensors in `core.computed.plain`, without those that are not there."""
    names = plain_names(model)
    return [
        replace(
            group,
            members=tuple(
                replace(member, name=names.get(member.name, member.name), buffer=False)
                if names.get(member.name)
                else member
                for member in group.members
                if names.get(member.name, member.name)
            ),
        )
        for group in groups
    ]


def roles_in(model: nn.Module) -> dict[str, str]:
    """Return name → role of every parameter of `model`; see `secateur.sparsity.targets`."""
    return {
        f"{path}.{leaf}" if path else leaf: role(module, leaf, parameter)
        for path, module in named_modules(model)
        for leaf, parameter in named_parameters(module, recurse=False)
    }


ScoreParts = dict[str, list[ScorePart]]
"""Group name → scores in each of its tensors, in the order of its members."""

VIEWS: Registry[Callable[[Question], ScoreParts]] = Registry("view of units")

REDUCTIONS: Registry[Callable[[Sequence[ScorePart]], Tensor]] = Registry("reduction")


@REDUCTIONS.register("mean")
def mean(parts: Sequence[ScorePart]) -> Tensor:
    """Mean over all scores of a unit, comparable between wide and narrow layers."""
    return ScorePart(_sum([part.total for part in parts]), _sum([part.counted for part in parts])).mean


@REDUCTIONS.register("sum")
def total(parts: Sequence[ScorePart]) -> Tensor:
    """Sum over all scores of a unit."""
    return _sum([part.total for part in parts])


@REDUCTIONS.register("max")
def largest(parts: Sequence[ScorePart]) -> Tensor:
    """Largest of the means of a unit's tensors."""
    return torch.stack([part.mean for part in parts]).amax(0)


@REDUCTIONS.register("first")
def first(parts: Sequence[ScorePart]) -> Tensor:
    """Mean in the first tensor that makes the unit alone, as most papers' filter criteria; the first without one."""
    return next((part for part in parts if part.makes), parts[0]).mean


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)


def gather(member: Member, units: int, scores: Tensor, counts: Tensor | None = None) -> ScorePart:
    """Sum scores and counts (default: ones) of a dimension's indices, both [indices], over each unit's indices."""
    unit = torch.from_numpy(member.unit)
    inside = unit >= 0
    scores = scores.detach().double().cpu()
    counts = torch.ones_like(scores) if counts is None else counts.double()
    return ScorePart(
        torch.zeros(units, dtype=torch.float64).index_add_(0, unit[inside], scores[inside]),
        torch.zeros(units, dtype=torch.float64).index_add_(0, unit[inside], counts[inside]),
        member.makes,
    )
