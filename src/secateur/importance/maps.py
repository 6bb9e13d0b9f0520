"""Looking at the feature maps of units: what they are for real inputs.

A producer's map is taken where its channels are used: behind the normalisation and activation that follow it, and
behind the sum where it ends in a residual stream.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateur.criteria.calibration import Calibration
from secateur.errors import InputError
from secateur.graph.couple import Coupling
from secateur.graph.groups import Group, Member
from secateur.graph.labels import Vector
from secateur.graph.probe import Place, Places, Probe
from secateur.graph.program import Node, refs
from secateur.graph.rules import RULES, rule_of
from secateur.importance.observed import by_samples, coupling_of, remembered, units_along
from secateur.importance.parts import VIEWS, Parts, Question, gather
from secateur.importance.rows import producers
from secateur.measure.inputs import batch_size

FOLLOWED = frozenset(
    RULES[op] for op in ("pointwise", "native_batch_norm", "native_layer_norm", "native_group_norm")
)
"""Rules of the operators that a map is followed through."""


class Maps(NamedTuple):
    """Feature maps: where they are seen, and which dimension is the channels."""

    place: Place
    dim: int


@VIEWS.register("map")
def map_parts(question: Question) -> Parts:
    """Score the maps of what produces each unit, [N, channels, *places] → [N, channels]; the mean over all samples."""
    finder, roles = Finder(coupling_of(question)), question.roles()
    sites = {
        group.name: list(
            dict(
                site for member in producers(group, roles) for site in finder.maps(group, member.name)
            ).items()
        )
        for group in question.groups
    }
    means = remembered(
        question,
        [maps for found in sites.values() for maps, _ in found],
        lambda data, missing: _means(question, data, missing),
    )
    return {
        group.name: [
            gather(Member(group.name, maps.dim, unit), group.units, means[maps])
            for maps, unit in sites[group.name]
        ]
        for group in question.groups
    }


class Finder:
    """Finds the feature maps that weights make, in a traced model."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling, self.program = coupling, coupling.program
        self.places = Places(self.program)
        self.users: dict[int, list[Node]] = defaultdict(list)
        self.products: dict[str, list[Node]] = defaultdict(list)
        self._follow_weights()

    def _follow_weights(self) -> None:
        """Note who uses each value, and where what is made of a weight meets an activation."""
        made_of = {
            value.id: {value.name} for value in self.program.values if value.kind in ("parameter", "buffer")
        }
        for node in self.program.nodes:
            operands = set(refs((node.args, node.kwargs)))
            for operand in operands:
                self.users[operand].append(node)
            names = set().union(*(made_of.get(operand, ()) for operand in operands))
            if operands <= made_of.keys():
                made_of.update(dict.fromkeys(node.outputs, names))
            else:
                for name in names:
                    self.products[name].append(node)

    def maps(self, group: Group, weight: str) -> Iterator[tuple[Maps, Vector]]:
        """Yield the maps of a group that a weight makes, and the unit of each channel.

        A weight that is used several times makes several; one that works inside of a fused call none.
        """
        for node in self.products[weight]:
            outputs = [] if node.call is None else list(refs(self.program.calls[node.call].outputs))
            for value in (*outputs, *node.outputs):
                if (along := units_along(self.coupling, group, value)) is not None:
                    last = self._followed(value, along[0])
                    if (place := self.places.out(last)) is not None:
                        yield Maps(place, along[0]), along[1]
                    break

    def _followed(self, value: int, dim: int) -> int:
        """Return the last value that can be seen of those that a map becomes before anything else uses it."""
        last = value
        while len(self.users[value]) == 1 and value not in self.program.outputs:
            (node,) = self.users[value]
            if rule_of(node) not in FOLLOWED or not self._same(value, node.outputs[0], dim):
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


def _means(question: Question, data: Calibration, wanted: Sequence[Maps]) -> dict[Maps, Tensor]:
    """Return the mean score of each channel over all samples, float64 [channels], in one pass over the data."""
    probe = Probe(question.model, coupling_of(question).program, [maps.place for maps in wanted])
    score, options = question.criterion.unit, question.options
    totals: dict[Maps, Tensor] = {}
    counts: dict[Maps, int] = defaultdict(int)
    along: dict[Place, int] = {}

    def seen(place: Place, tensor: Tensor) -> None:
        for maps in of[place]:
            scores = score(by_samples(tensor, along.get(place), samples, maps.dim), **options)
            total = scores.sum(0, dtype=torch.float64)
            totals[maps] = totals[maps] + total if maps in totals else total
            counts[maps] += len(scores)

    of: dict[Place, list[Maps]] = defaultdict(list)
    for maps in wanted:
        of[maps.place].append(maps)
    with torch.no_grad():
        for inputs, _ in data.tracked("feature maps"):
            samples = batch_size(inputs)
            along = along or probe.sample_dims(inputs)
            probe.run(inputs, seen)
    for maps in wanted:
        if maps not in totals:
            raise InputError(
                f"No calibration data reaches {maps.place.point.module or 'the model'}, whose feature maps count: "
                "pass more data."
            )
    return {maps: (total / counts[maps]).cpu() for maps, total in totals.items()}
