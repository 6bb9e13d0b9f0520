"""Places in a traced model to observe the activations of units: outputs of producing and inputs of reading weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from secateur.graph.coupling import Coupling
from secateur.graph.groups import Group
from secateur.graph.labels import FIXED, Vector
from secateur.graph.operators import operator_of
from secateur.graph.probe import TensorPlace, TensorPlaces
from secateur.graph.program import Node, refs


class Spot(NamedTuple):
    """One dimension of an observable tensor."""

    place: TensorPlace
    dim: int


class Sites:
    """The observable activations of units in a traced model."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling, self.program = coupling, coupling.program
        self.places = TensorPlaces(self.program)
        self.users: dict[int, list[Node]] = defaultdict(list)
        self.products: dict[str, list[Node]] = defaultdict(list)
        self.made_of: dict[int, set[str]] = {}
        self._follow_weights()

    def _follow_weights(self) -> None:
        """Record the users of each value, and the operators that combine each weight with an activation."""
        made_of = self.made_of
        for value in self.program.values:
            if value.kind in ("parameter", "buffer"):
                made_of[value.id] = {value.name}
        for node in self.program.nodes:
            operands = set(node.operands)
            for operand in operands:
                self.users[operand].append(node)
            names = set().union(*(made_of.get(operand, ()) for operand in operands))
            if operands <= made_of.keys():
                made_of.update(dict.fromkeys(node.outputs, names))
            else:
                for name in names:
                    self.products[name].append(node)

    def maps(self, group: Group) -> Iterator[tuple[Spot, Vector]]:
        """Yield the spots of the maps that a group's weights produce, and the unit of each index there.

        A map is read after the following normalisation, activation and residual sum, up to the first value with
        several users. A weight used several times has several maps; one inside a fused call has none.
        """
        for node in self.met(group, reads=False):
            outputs = [] if node.call is None else refs(self.program.calls[node.call].outputs)
            for value in (*outputs, *node.outputs):
                if (along := units_along(self.coupling, group, value)) is not None:
                    last = self._followed(value, along[0])
                    if (place := self.places.out(last)) is not None:
                        yield Spot(place, along[0]), along[1]
                    break

    def readings(self, group: Group) -> Iterator[tuple[Spot, Vector]]:
        """Yield the spots of a group's activations that its weights read, and the unit of each index there."""
        for node in self.met(group, reads=True):
            if node.call is None or node.call >= len(self.places.calls):
                continue
            call = self.program.calls[node.call]
            for value in refs((call.args, call.kwargs)):
                along = None if value in self.made_of else units_along(self.coupling, group, value)
                place = None if along is None else self.places.into(node.call, value)
                if along is not None and place is not None:
                    yield Spot(place, along[0]), along[1]
                    break

    def met(self, group: Group, *, reads: bool) -> Iterator[Node]:
        """Yield the products of activations with weights that read a group, or with those that produce it."""
        for member in group.members:
            if member.reads == reads and not member.buffer:
                yield from (node for node in self.products[member.name] if operator_of(node).makes_maps)

    def _followed(self, value: int, dim: int) -> int:
        """Return the last observable value of the chain of single users and followed operators after a map."""
        last = value
        while len(self.users[value]) == 1 and value not in self.program.outputs:
            (node,) = self.users[value]
            if not operator_of(node).keeps_maps or not self._same(value, node.outputs[0], dim):
                break
            value = node.outputs[0]
            if self.places.out(value) is not None:
                last = value
        return last

    def _same(self, value: int, other: int, dim: int) -> bool:
        """Whether two values have the same shape and the same units along a dimension."""
        if self.program.values[value].shape != self.program.values[other].shape:
            return False
        one, two = self.coupling.dims[value][dim], self.coupling.dims[other][dim]
        find = self.coupling.labels.find
        return one is not None and two is not None and np.array_equal(find(one), find(two))


def units_along(coupling: Coupling, group: Group, value: int) -> tuple[int, Vector] | None:
    """Return the first dimension of a value that a group runs through, and the unit of each index, −1 for none."""
    for dim, vector in enumerate(coupling.dims[value]):
        if vector is None:
            continue
        roots = coupling.labels.find(vector)
        at = np.searchsorted(group.roots, roots).clip(max=group.units - 1)
        inside = (group.roots[at] == roots) & (vector != FIXED)
        if inside.any():
            return dim, np.where(inside, at, -1)
    return None
