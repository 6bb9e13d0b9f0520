"""Units that are dead: what their readers get never changes, or no reader looks at it, so they can go without a trace.

A unit is dead if each of its readers multiplies it by zeros alone, or gets the same number of it at every place and for
every input, as from zero weights, a batch normalisation of scale zero, or weights masked by any tool. The number is
folded into the reader's bias, or into the mean of the batch normalisation behind it. Dead units kill others, in front
of them and behind, so the search is repeated on a copy without them until it finds no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.contexts import evaluating
from secateur.core.errors import VerificationError
from secateur.core.seeds import same_draws
from secateur.graph.coupling import Coupling, argument
from secateur.graph.groups import Group, Groups, Member
from secateur.graph.operators import operator_of
from secateur.graph.program import Node, refs
from secateur.graph.readers import summed
from secateur.graph.trace import tensors_of
from secateur.importance.products import Product, Products
from secateur.importance.sites import Spot, units_along
from secateur.measure.inputs import ModelInputs, arguments
from secateur.pruning.allocate_units import UnitMasks
from secateur.pruning.constant_inputs import (
    ConstantEntries,
    always,
    doubled,
    in_float64,
    other_inputs,
    wide_inputs,
)
from secateur.shrink.plan import Plan, named_tensors
from secateur.shrink.verify import distance

UNCHANGED = 1e-9
"""Largest change of the outputs in float64, as a fraction of the largest."""
ROUNDED = 1e-4
"""The same where constants were folded into tensors of the model's own type."""


class ReaderInput(NamedTuple):
    """One product that reads a group: the weight, the place of its input with the unit of each index there.

    `spot` is None where the input can't be seen, `product` where a constant can't be folded into what follows.
    """

    member: Member
    spot: Spot | None
    along: np.ndarray[tuple[int], np.dtype[np.int64]] | None
    product: Product | None


@dataclass(frozen=True)
class DeadUnits:
    """Masks of units, group name → boolean [units], False for the dead, and the shifts that keep the outputs.

    `shifts` maps names of biases and running means to what is added to them, float64 and of their shape.
    """

    masks: UnitMasks
    shifts: dict[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many units are dead."""
        return sum(int((~mask).sum()) for mask in self.masks.values())

    def proved(self, model: nn.Module, small: nn.Module, inputs: ModelInputs) -> str:
        """Return the sentence on the outputs of the smaller model. Raises `VerificationError` if they are others."""
        apart, exact = difference(model, small, inputs), not self.shifts
        if not apart <= (UNCHANGED if exact else ROUNDED):
            raise VerificationError(
                f"The model without its dead units differs from the whole one by {apart:.1e} of its largest output: it "
                "was thrown away. Keep more layers with keep=, or report the model."
            )
        folded = "" if exact else f", with constants folded into {len(self.shifts)} biases and means"
        return (
            f"{self.count} dead units went{folded}: the outputs are those of the whole model to {apart:.0e}."
        )

    @torch.no_grad()
    def fold(self, small: nn.Module, plan: Plan) -> None:
        """Add the shifts to the tensors of the smaller model."""
        for name, shift in self.shifts.items():
            stay = plan.kept.get(name, {}).get(0)
            tensor = named_tensors(small)[name]
            tensor.add_((shift if stay is None else shift[stay]).to(tensor))


def dead_units(model: nn.Module, inputs: ModelInputs, groups: Groups, chosen: Sequence[Group]) -> DeadUnits:
    """Return the dead units of the `chosen` groups; one unit of a group stays.

    Groups over whose units a statistic runs, such as a layer normalisation, have none: it would change. Cost: some 70
    passes in float64 where there are dead units, 4 where there are none.
    """
    search = DeadSearch(model, inputs, groups)
    able = [each for each in chosen if search.may(each)]
    found = search.run(able)
    if not search.unchanged(found):
        good = [each for each in able if search.unchanged(search.run([each]))]
        found = search.run(good)
        if not search.unchanged(found):
            found = DeadUnits({})
    whole = {each.name: torch.ones(each.units, dtype=torch.bool) for each in chosen}
    return DeadUnits({**whole, **found.masks}, found.shifts)


def difference(model: nn.Module, other: nn.Module, inputs: ModelInputs) -> float:
    """Return how far the outputs of two models are apart in float64, as a fraction of the largest."""
    return distance(*(_outputs(in_float64(each), inputs) for each in (model, other)))


def _outputs(model: nn.Module, inputs: ModelInputs) -> list[Tensor]:
    args, kwargs = arguments(wide_inputs(inputs))
    with torch.no_grad(), doubled(), same_draws(), evaluating(model):
        return [*tensors_of(model(*args, **kwargs))]


class DeadSearch:
    """The search for dead units in one model, in float64."""

    def __init__(self, model: nn.Module, inputs: ModelInputs, groups: Groups) -> None:
        self.model, self.inputs, self.coupling = in_float64(model), inputs, groups.coupling
        self.program, products = self.coupling.program, Products(self.coupling)
        self.products, self.sites = products, products.sites
        known = list(products)
        self.by_node = {id(each.node): each for each in known}
        self.uses = Counter(each.bias for each in known)
        self.means = Counter(each.norm.mean for each in known if each.norm is not None)
        self.crossed = _crossed(self.coupling)
        self.batches = (inputs, other_inputs(inputs, 0))
        self.before = [_outputs(self.model, batch) for batch in self.batches]
        self.work = self.model

    def may(self, group: Group) -> bool:
        """Whether units of a group can go without a trace at all: read by weights, and by no statistic."""
        reads = any(member.reads and not member.buffer for member in group.members)
        return reads and not np.isin(group.roots, self.crossed).any()

    def run(self, groups: Sequence[Group]) -> DeadUnits:
        """Return the dead units of some groups, without a look at the outputs; `work` is the model without them."""
        self.work = in_float64(self.model)
        masks = {each.name: torch.ones(each.units, dtype=torch.bool) for each in groups}
        shifts: dict[str, Tensor] = {}
        readings = {each.name: [*self._readings(each)] for each in groups}
        while groups:
            spots = {each.spot for every in readings.values() for each in every if each.spot is not None}
            same = always(self.work, self.program, spots, wide_inputs(self.inputs)) if spots else {}
            fresh = 0
            for group in groups:
                dead = self._dead(group, readings[group.name], same) & masks[group.name]
                alive = int(masks[group.name].sum())
                if int(dead.sum()) == alive:
                    dead[dead.nonzero().flatten()[-1:]] = False  # one stays
                if bool(dead.any()):
                    masks[group.name] &= ~dead
                    self._drop(group, dead, readings[group.name], same, shifts)
                    fresh += int(dead.sum())
            if not fresh:
                break
        return DeadUnits({name: mask for name, mask in masks.items() if not mask.all()}, shifts)

    def unchanged(self, found: DeadUnits) -> bool:
        """Whether the outputs of the model without the dead units of the last run are those of the whole one."""
        pairs = zip(self.before, self.batches, strict=True)
        return not found.masks or all(distance(own, _outputs(self.work, b)) <= UNCHANGED for own, b in pairs)

    def _readings(self, group: Group) -> Iterator[ReaderInput]:
        """Yield the products that read a group."""
        weights = set(self.sites.made_of)
        for member in group.members:
            if not member.reads or member.buffer:
                continue
            nodes = [node for node in self.sites.products[member.name] if self._reads(node, group, weights)]
            for node in nodes:
                yield ReaderInput(member, *self._seen(group, node), self.by_node.get(id(node)))
            if not nodes:
                yield ReaderInput(member, None, None, None)

    def _reads(self, node: Node, group: Group, weights: set[int]) -> bool:
        find, vectors = self.coupling.labels.find, summed(self.coupling, node, weights)
        return any(vector is not None and np.isin(find(vector), group.roots).any() for vector in vectors)

    def _seen(
        self, group: Group, node: Node
    ) -> tuple[Spot | None, np.ndarray[tuple[int], np.dtype[np.int64]] | None]:
        if node.call is None or node.call >= len(self.sites.places.calls):
            return None, None
        call = self.program.calls[node.call]
        for value in refs((call.args, call.kwargs)):
            along = None if value in self.sites.made_of else units_along(self.coupling, group, value)
            place = None if along is None else self.sites.places.into(node.call, value)
            if along is not None and place is not None:
                return Spot(place, along[0]), along[1]
        return None, None

    def _dead(self, group: Group, readings: Sequence[ReaderInput], same: ConstantEntries) -> Tensor:
        """Return the units that no reading looks at or can tell from a constant, bool [units]."""
        dead = torch.ones(group.units, dtype=torch.bool)
        for each in readings:
            unread = _of_units(group, each.member.unit, _columns(self.work, each.member).amax(1) == 0)
            if each.spot is None or each.along is None or each.spot not in same:
                dead &= unread
                continue
            constant, value = same[each.spot]
            foldable = constant if self._folds(each) else constant & (value == 0)
            dead &= unread | _of_units(group, each.along, foldable)
        return dead

    def _folds(self, reading: ReaderInput) -> bool:
        """Whether a constant input of a product can be added to its bias, or to the mean behind it."""
        product = reading.product
        if product is None or product.groups > 1 or (product.convolution and _padded(product.node)):
            return False
        if product.bias is not None:
            return self.uses[product.bias] == 1
        return product.norm is not None and bool(product.norm.mean) and self.means[product.norm.mean] == 1

    @torch.no_grad()
    def _drop(
        self,
        group: Group,
        dead: Tensor,
        readings: Sequence[ReaderInput],
        same: ConstantEntries,
        shifts: dict[str, Tensor],
    ) -> None:
        """Fold the constants of dead units, and set all of their weights in `work` to zero."""
        tensors = named_tensors(self.work)
        for each in readings:
            product = each.product
            if each.spot in same and each.along is not None and product is not None and self._folds(each):
                unit = torch.from_numpy(each.along)
                gone = (unit >= 0) & dead[unit.clamp(min=0)]
                weight = tensors[each.member.name].detach().movedim(each.member.dim, 0)[gone]
                outputs = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
                self._shift(product, (outputs * same[each.spot][1][gone][:, None]).sum(0), shifts)
        spared = {(self.program.values[value].name, dim) for value, dim in self.coupling.divided}
        for member in group.members:
            if not member.buffer and (member.name, member.dim) not in spared:
                unit = torch.from_numpy(member.unit)
                gone = ((unit >= 0) & dead[unit.clamp(min=0)]).nonzero().flatten()
                tensors[member.name].index_fill_(member.dim, gone, 0)

    def _shift(self, product: Product, amount: Tensor, shifts: dict[str, Tensor]) -> None:
        if not bool(amount.any()):
            return
        name = product.bias
        if name is None:
            assert product.norm is not None
            name, amount = product.norm.mean, -amount
        named_tensors(self.work)[name].add_(amount)
        shifts[name] = shifts.get(name, torch.zeros_like(amount)) + amount


def _crossed(coupling: Coupling) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the labels over which a statistic runs."""
    vectors = [vector for _, vector in coupling.crossed]
    return coupling.labels.find(np.concatenate(vectors)) if vectors else np.empty(0, dtype=np.int64)


def _columns(model: nn.Module, member: Member) -> Tensor:
    """Return the largest effective weights that read each index of a member's dimension, [indices, 1]."""
    weight = _effective(model, member.name)
    return weight.detach().abs().movedim(member.dim, 0).flatten(1).amax(1, keepdim=True)


def _effective(model: nn.Module, name: str) -> Tensor:
    """Return a parameter as the model uses it: masked by `torch.nn.utils.prune` where it is."""
    own = named_tensors(model)
    mask = own.get(f"{name.removesuffix('_orig')}_mask") if name.endswith("_orig") else None
    return own[name] if mask is None else own[name] * mask


def _of_units(group: Group, along: np.ndarray[tuple[int], np.dtype[np.int64]], holds: Tensor) -> Tensor:
    """Return whether something holds for all indices of each unit, bool [units]."""
    unit, every = torch.from_numpy(along), torch.ones(group.units, dtype=torch.bool)
    every[unit[(unit >= 0) & ~holds.cpu()]] = False
    return every


def _padded(node: Node) -> bool:
    """Whether a convolution sees zeros beyond the border, so that a constant is none there."""
    return operator_of(node).product is not None and any(size != 0 for size in argument(node, "padding"))
