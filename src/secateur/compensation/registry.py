"""The registry of compensations: updates of the remaining weights that reduce the error of a cut.

A compensation is a function of a `Case`, which holds the model before and after the cut; it writes new values into
the tensors of the pruned model and returns its record, as JSON. Its keyword-only parameters are its options. A name
has one function for each sort of elements that a granularity cuts: "weights", "units" or "layers".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from secateur.core.brief import Brief
from secateur.core.errors import InputError
from secateur.core.options import options_of
from secateur.core.registry import Registry
from secateur.criteria.calibration import Calibration
from secateur.graph.cut import Cut
from secateur.graph.groups import Group
from secateur.graph.program import Program
from secateur.shrink.plan import Plan, named_tensors
from secateur.sparsity.granularity import Granularity, kind_of, kinds_where, parse
from secateur.sparsity.masks import Masks


@dataclass(frozen=True, repr=False)
class Case(Brief):
    """A cut to compensate.

    `model` is the model before the cut, `pruned` the one after it, whose tensors are changed in place; `program` is the
    trace of `model`. `cut` and `plan` give the removed units of `groups`, which had the `scores` (group name → float64
    [units]); `masks` the removed weights at a `granularity`, in addition to the `earlier` ones. `data` are calibration
    data, or None; `seed` (default 0) is that of random draws; `corrects` (default off) adds a correction of means and
    variances.
    """

    model: nn.Module
    pruned: nn.Module
    program: Program
    data: Calibration | None = None
    seed: int = 0
    corrects: bool = False
    cut: Cut | None = None
    plan: Plan = field(default_factory=Plan)
    groups: tuple[Group, ...] = ()
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Masks = field(default_factory=lambda: Masks({}))
    earlier: Masks = field(default_factory=lambda: Masks({}))
    granularity: Granularity = field(default_factory=lambda: parse("weight"))

    def kept(self, group: Group) -> Tensor:
        """Return the mask of a group's kept units, boolean [units]."""
        assert self.cut is not None
        return torch.from_numpy(self.cut.alive[group.roots])

    def stays(self, name: str, dim: int) -> Tensor:
        """Return the kept indices along a dimension of a tensor, int64."""
        kept = self.plan.kept.get(name, {})
        return kept[dim] if dim in kept else torch.arange(named_tensors(self.model)[name].shape[dim])

    @torch.no_grad()
    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy values into parameters and buffers of the pruned model, by name, cast to their dtype."""
        own = named_tensors(self.pruned)
        for name, values in tensors.items():
            own[name].copy_(values)


Compensate: TypeAlias = Callable[..., dict[str, Any]]
CompensateFunction = TypeVar("CompensateFunction", bound=Compensate)


@dataclass(frozen=True)
class Compensation:
    """A name, and its function for each sort of elements that a granularity cuts: "weights", "units", "layers".

    `needs_data` (default off) tells whether it needs calibration data.
    """

    name: str
    functions: dict[str, Compensate] = field(default_factory=dict)
    needs_data: bool = False

    @property
    def granularities(self) -> frozenset[str]:
        """The kinds of granularity it has a function for."""
        return frozenset(kinds_where(lambda each: not each.elements.isdisjoint(self.functions)))

    def function(self, granularity: str) -> Compensate:
        """Return the function for a granularity, a text or kind. Raises `InputError` if it has none."""
        found = next(
            (self.functions[each] for each in kind_of(granularity).elements if each in self.functions), None
        )
        if found is None:
            known = ", ".join(sorted(self.granularities))
            raise InputError(
                f"The compensation {self.name} is for {known}, not for the granularity {granularity}: choose another "
                "pair."
            )
        return found

    def options(self, granularity: str) -> dict[str, Any]:
        """Return the options at a granularity, with their defaults; empty without a function for it."""
        has = granularity in self.granularities or kind_of(granularity).kind in self.granularities
        return options_of(self.function(granularity)) if has else {}


COMPENSATIONS: Registry[Compensation] = Registry("compensation")


def compensation(
    name: str, elements: Collection[str], *, needs_data: bool = False
) -> Callable[[CompensateFunction], CompensateFunction]:
    """Register the decorated function as the compensation called `name` for elements such as {"units"}."""

    def register(function: CompensateFunction) -> CompensateFunction:
        if name not in COMPENSATIONS:
            COMPENSATIONS.add(name, Compensation(name, {}, needs_data))
        COMPENSATIONS[name].functions.update(dict.fromkeys(sorted(elements), function))
        return function

    return register


@compensation("drop", {"weights", "units", "layers"})
def drop(case: Case) -> dict[str, Any]:
    """No compensation: the remaining weights do not change."""
    return {}
