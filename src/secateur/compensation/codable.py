"""The groups to which an encoder and a decoder can be applied.

A unit can always be dropped. Units can be mixed only if all their readers are linear in them, no tensor both produces
and reads them, and the model's code does not sum over them without weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from secateur.compensation.coder import even
from secateur.graph.coupling import Coupling
from secateur.graph.groups import Group, Member
from secateur.graph.labels import FIXED, Vector
from secateur.graph.operators import operator_of
from secateur.graph.program import Node, refs
from secateur.graph.readers import summed, summed_activations
from secateur.importance.sites import Sites
from secateur.sparsity.targets import DTYPES


class Codable:
    """The test whether a group of a model can be coded."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling, self.program = coupling, coupling.program
        sites = Sites(coupling)
        self.users, self.weights = sites.users, set(sites.made_of)

    def refused(self, group: Group) -> str | None:
        """Return the reason that a group can only be dropped; None if it can be coded."""
        for member in group.members:
            if self.program.values[self.program.tensors[member.name]].dtype not in DTYPES:
                return f"{member.name} holds no floating-point numbers"
            if not even(member, group.units):
                return f"its units have different numbers of indices in {member.name}"
        for node in self._summing(group):
            return f"{self._at(node)} sums over its units without weights"
        reasons = (self._unclear(member) for member in group.members)
        return next((reason for reason in reasons if reason is not None), None)

    def _summing(self, group: Group) -> Iterator[Node]:
        """Yield the operators that sum activations over a group's units."""
        roots = set(group.roots.tolist())
        for node, vector in self.coupling.crossed:
            if not operator_of(node).same_doubled and not roots.isdisjoint(self._roots(vector)):
                yield node
        for node in self.program.nodes:
            for vector in summed_activations(self.coupling, node, self.weights):
                if not roots.isdisjoint(self._roots(vector)):
                    yield node

    def _unclear(self, member: Member) -> str | None:
        """Return the reason that a tensor is not clearly a producer or a linear reader of units; None if it is."""
        source = self.program.tensors[member.name]
        own = self.coupling.dims[source][member.dim]
        assert own is not None
        labels = set(own[member.unit >= 0].tolist())
        values = [source]
        if not self.users[source] and not member.buffer:
            return f"the example inputs do not reach {member.name}"
        for value in values:  # grows on the way
            vectors = [
                v for v in self.coupling.dims[value] if v is not None and not labels.isdisjoint(v.tolist())
            ]
            for node in self.users[value]:
                if self.weights.issuperset(node.operands):
                    if member.reads and not _linear(node):
                        return f"{self._at(node)} changes {member.name} before it reads its units"
                    values += [output for output in node.outputs if output not in values]
                    continue
                sums = summed(self.coupling, node, self.weights)
                for vector in vectors:
                    reads = any(vector is each for each in sums)
                    if reads != member.reads:
                        return f"{member.name} both makes and reads its units"
                    if not reads and not self._passes(node, vector):
                        return f"{self._at(node)} sums over {member.name} in a way that is not known"
        return None

    def _passes(self, node: Node, vector: Vector) -> bool:
        """Whether an output of an operator has units of a vector."""
        roots = self._roots(vector)
        behind = (each for output in node.outputs for each in self.coupling.dims[output] if each is not None)
        return any(not roots.isdisjoint(self._roots(each)) for each in behind)

    def _roots(self, vector: Vector) -> set[int]:
        return set(np.unique(self.coupling.labels.find(vector[vector != FIXED])).tolist())

    def _at(self, node: Node) -> str:
        return f"{node.op} in {self.program.where(node)}"


def _linear(node: Node) -> bool:
    operator, operands = operator_of(node), [*refs(node.args)]
    return operator.moves or (operator.linear == len(operands) and "rounding_mode" not in node.kwargs)
