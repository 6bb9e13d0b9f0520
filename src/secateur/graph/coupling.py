"""The coupling of a program: the label vectors of its values, and the notes rules make on the way.

Every dimension of a value either has a *vector* of labels, one per index, or None: its size must stay.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from secateur.core.brief import Brief
from secateur.core.schemas import REQUIRED, given
from secateur.graph.labels import Labels, Lock, Vector
from secateur.graph.program import Node, Program, Ref, Value

Dims = list[Vector | None]
Rule = Callable[["Coupling", Node], None]


class Need(NamedTuple):
    """The integer `value` must become the kept count of `labels`, times `sign`.

    Needs with the same `number` are ways to write the same thing, such as −1 and the last index.
    """

    value: int
    labels: Vector
    sign: int = 1
    number: int = 0


@dataclass
class ReshapeChoice:
    """The vectors chosen at one place of the code, and of how many possibilities."""

    vectors: list[Vector]
    of: int


class RuleFault(NamedTuple):
    """A rule of secateur's that failed: for which operator, with what error on which of its lines."""

    operator: str
    error: str
    line: str


@dataclass(repr=False)
class Coupling(Brief):
    """What coupling knows of a program.

    `dims[v]` are the label vectors of value v. `crossed` holds the operators whose statistic runs over labelled
    dimensions, `unknown` the operators without a rule, or in a form that theirs does not know, by how often each was
    met, `faults` the rules that failed, `heads` the vectors along which matrix products run in parallel.
    """

    program: Program
    labels: Labels = field(default_factory=Labels)
    dims: dict[int, Dims] = field(default_factory=dict)
    crossed: list[tuple[Node, Vector]] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    faults: Counter[RuleFault] = field(default_factory=Counter)
    divided: set[tuple[int, int]] = field(default_factory=set)
    """(value, dimension) whose entries are divided by their norm: zeros there would give 0/0."""
    choices: dict[str, ReshapeChoice] = field(default_factory=dict)
    """Where a reshape left a choice of what the unit is (place in the code) → what was chosen of how many."""
    picks: Mapping[str, int] = field(default_factory=dict)
    """Place → which of the possibilities to choose there, instead of the first."""
    heads: list[Vector] = field(default_factory=list)
    parts: list[tuple[Vector, Lock]] = field(default_factory=list)
    """Dimensions of which the code takes a part."""
    ordered: list[tuple[Vector, Vector, Lock]] = field(default_factory=list)
    """Labels of entries and of their ranks in order, and why the entries stay if a rank meets a parameter."""
    needs: dict[int, list[Need]] = field(default_factory=dict)
    """Call → integers among its arguments that must become the kept count of some labels."""

    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def of(self, ref: Ref) -> Dims:
        """Return the vectors of a tensor argument."""
        return self.dims[ref.id]

    def value(self, ref: Ref) -> Value:
        """Return shape and kind of a tensor argument."""
        return self.program.values[ref.id]

    def shape(self, node: Node, which: int = 0) -> tuple[int, ...]:
        """Return the shape of one of a node's outputs."""
        return self.program.values[node.outputs[which]].shape

    def give(self, node: Node, dims: Sequence[Vector | None], which: int = 0) -> None:
        """Set the vectors of an output; dimensions of one index never have any."""
        shape = self.shape(node, which)
        if len(dims) != len(shape) or any(
            vector is not None and size > 1 and vector.size != size
            for vector, size in zip(dims, shape, strict=True)
        ):
            raise ValueError(f"the rule of {node.op} does not give vectors of shape {shape}")
        self.dims[node.outputs[which]] = [
            None if vector is None or size <= 1 else vector for vector, size in zip(dims, shape, strict=True)
        ]

    def lock_for(self, node: Node, reason: str) -> Lock:
        """Return the reason `reason` at this operator's place in the code."""
        return Lock(reason, f"{node.op} in {self.program.where(node)}")

    def unite(self, node: Node, left: Vector | None, right: Vector | None, reason: str = "") -> Vector | None:
        """Make two dimensions one; against a dimension that must stay, the other must too."""
        if left is None or right is None:
            for vector in (left, right):
                if vector is not None:
                    self.lock(node, vector, reason or "it meets a size that must stay")
            return None
        self.labels.unite(left, right, self.lock_for(node, reason or "it meets an index that must stay"))
        return left

    def lock(self, node: Node, vector: Vector | None, reason: str) -> None:
        """Keep every index of a dimension."""
        if vector is not None:
            self.labels.lock(vector, self.lock_for(node, reason))

    def crosses(self, node: Node, vector: Vector | None) -> None:
        """Record that this operator computes a statistic over a labelled dimension."""
        if vector is not None:
            self.crossed.append((node, vector))

    def ranks_of(self, node: Node, vector: Vector, count: int) -> Vector:
        """Return labels of the first ranks of a dimension's entries, which are no entry in particular."""
        ranks = self.labels.fresh(count)
        self.ordered.append((vector, ranks, self.lock_for(node, "the operator ranks its entries")))
        return ranks

    def pick(self, node: Node, possibilities: int) -> int:
        """Return which of some possibilities to take at the place in the code where this node ran."""
        return min(self.picks.get(self._place(node), 0), possibilities - 1)

    def picked(self, node: Node, vector: Vector, possibilities: int) -> None:
        """Record what was taken of some possibilities."""
        choice = self.choices.setdefault(self._place(node), ReshapeChoice([], possibilities))
        choice.vectors.append(vector)
        choice.of = max(choice.of, possibilities)

    def _place(self, node: Node) -> str:
        source = "" if node.call is None else self.program.calls[node.call].source
        return f"{node.op} {source} {[self.program.values[output].shape for output in node.outputs]}"

    def need(self, node: Node, *needs: Need) -> None:
        """Record that the code of this node holds one of these integers, or none where it has a default."""
        if node.call is not None:
            number = next(self._numbers)
            self.needs.setdefault(node.call, []).extend(need._replace(number=number) for need in needs)


def varies(labels: Vector) -> list[int]:
    """Return the dimensions of an array along which its entries differ."""
    return [
        dim
        for dim in range(labels.ndim)
        if labels.shape[dim] > 1 and not (labels == np.take(labels, [0], axis=dim)).all()
    ]


def argument(node: Node, name: str, default: Any = REQUIRED) -> Any:
    """Return an operator's argument by the name its schema gives it, as it was given or the schema's default.

    `default` is for operators that have no such argument; without one, these raise `TypeError`.
    """
    return given(node.overload, node.args, node.kwargs, name, default)
