"""Couple: move labels through a program and unite what must live and die together.

Every dimension of a value either has a *vector* of labels, one per index, or None: its size must stay. Parameters
start with fresh labels in every dimension, inputs with None. Each operator's rule (see `rules`) says how the
vectors of its outputs follow from those of its operands and what it unites or locks on the way. An operator without
a rule locks what it touches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from secateur.graph.labels import FIXED, Labels, Lock, Vector
from secateur.graph.program import Node, Program, Ref, Value, refs
from secateur.targets import DTYPES

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
class Choice:
    """The vectors chosen at one place of the code, and of how many possibilities."""

    vectors: list[Vector]
    of: int


@dataclass
class Coupling:
    """What coupling knows of a program.

    `dims[v]` are the label vectors of value v. `crossed` holds the operators whose statistic runs over labelled
    dimensions, `unknown` the operators without a rule, by how often each was met, `heads` the vectors along which
    matrix products run in parallel.
    """

    program: Program
    labels: Labels = field(default_factory=Labels)
    dims: dict[int, Dims] = field(default_factory=dict)
    crossed: list[tuple[Node, Vector]] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    divided: set[tuple[int, int]] = field(default_factory=set)
    """(value, dimension) whose entries are divided by their norm: zeros there would give 0/0."""
    choices: dict[str, Choice] = field(default_factory=dict)
    """Where a reshape left a choice of what the unit is (place in the code) → what was chosen of how many."""
    picks: Mapping[str, int] = field(default_factory=dict)
    """Place → which of the possibilities to choose there, instead of the first."""
    heads: list[Vector] = field(default_factory=list)
    parts: list[tuple[Vector, Lock]] = field(default_factory=list)
    """Dimensions of which the code takes a part."""
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

    def pick(self, node: Node, possibilities: int) -> int:
        """Return which of some possibilities to take at the place in the code where this node ran."""
        return min(self.picks.get(self._place(node), 0), possibilities - 1)

    def picked(self, node: Node, vector: Vector, possibilities: int) -> None:
        """Record what was taken of some possibilities."""
        choice = self.choices.setdefault(self._place(node), Choice([], possibilities))
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


def couple(program: Program, locks: Sequence[tuple[int, str]] = ()) -> Coupling:
    """Run the rules over a program.

    `locks` are calls, by index, all of whose tensors must stay as they are, with the reason. Where a reshape leaves a
    choice of what the unit is, the first is taken; where that leads to a lock, or to a single unit, the others are
    tried, and what leaves most indices to cut is returned.
    """
    coupling = _couple(program, locks, {})
    locked = coupling.labels.locked()[0]
    stuck = {
        place: choice.of
        for place, choice in coupling.choices.items()
        if choice.of > 1 and not any(_choice(coupling, vector, locked) for vector in choice.vectors)
    }
    trials = [_couple(program, locks, {place: pick}) for place, of in stuck.items() for pick in range(1, of)]
    return max((coupling, *trials), key=_free)


def _free(coupling: Coupling) -> int:
    """How many indices of parameters may be cut."""
    locked = coupling.labels.locked()[0]
    values = coupling.program.values
    vectors = (
        vector
        for index in coupling.program.tensors.values()
        if values[index].kind == "parameter"
        for vector in coupling.dims[index]
        if vector is not None
    )
    return sum(_choice(coupling, vector, locked) for vector in vectors)


def _choice(coupling: Coupling, vector: Vector, locked: Vector) -> int:
    """How many indices of a dimension may be cut; none where all of them are one unit."""
    free = vector[locked[vector] < 0]
    return free.size if np.unique(coupling.labels.find(free)).size > 1 else 0


def _couple(program: Program, locks: Sequence[tuple[int, str]], picks: Mapping[str, int]) -> Coupling:
    from secateur.graph.rules import CALL_RULES, rule_of, unknown

    coupling = Coupling(program, picks=picks)
    for value in program.values:
        if value.kind == "result":
            continue
        real = value.kind in ("parameter", "buffer") or value.name != ""
        coupling.dims[value.id] = [
            coupling.labels.fresh(size, real=value.kind == "parameter") if real and size > 1 else None
            for size in value.shape
        ]
        if (lock := _own_lock(value)) is not None:
            for vector in coupling.dims[value.id]:
                if vector is not None:
                    coupling.labels.lock(vector, lock)
    for node in program.nodes:
        try:
            rule_of(node)(coupling, node)
        except (ValueError, IndexError, TypeError):  # a form of the operator the rule does not know
            unknown(coupling, node)
        for output in node.outputs:
            if output not in coupling.dims:
                coupling.dims[output] = [None] * len(program.values[output].shape)
    _follow_siblings(coupling)
    _lock_unreached(coupling)
    for number, call in enumerate(program.calls):
        if call.name in CALL_RULES:
            CALL_RULES[call.name](coupling, number, call)
    for number, reason in locks:
        call = program.calls[number]
        lock = Lock(reason, f"{call.name} in {call.module or 'the model'} ({call.source})")
        for touched in (*refs(call.args), *refs(call.kwargs), *refs(call.outputs)):
            for vector in coupling.dims[touched]:
                if vector is not None:
                    coupling.labels.lock(vector, lock)
    for output in program.outputs:
        for vector in coupling.dims[output]:
            if vector is not None:
                coupling.labels.lock(vector, Lock("it is an output of the model", "the model's output"))
    return coupling


def _own_lock(value: Value) -> Lock | None:
    """Return why a tensor that is there before the model runs must stay as it is."""
    if value.kind == "parameter" and value.dtype not in DTYPES:
        return Lock(
            f"it is of type {str(value.dtype).removeprefix('torch.')}, which no criterion scores", value.name
        )
    if value.kind == "constant" and value.name:
        return Lock(
            f"it meets the tensor {value.name}, which is no parameter and no buffer: register it", "the model"
        )
    return None


def _follow_siblings(coupling: Coupling) -> None:
    """Couple parameters that the example inputs did not reach: like a sibling's that they did, else not at all.

    Siblings are items of one list of modules, such as the experts of a mixture, with parameters of the same shape.
    """
    program = coupling.program
    unreached = set(program.unreached)
    lock = Lock("these example inputs do not reach it", "the model")
    reached: dict[tuple[str, ...], int] = {}
    for name, index in program.tensors.items():
        if name not in unreached and program.values[index].kind == "parameter":
            for key in _places(name):
                reached.setdefault(key, index)
    for name, index in program.tensors.items():
        value = program.values[index]
        if name not in unreached:
            continue
        like = next((reached[key] for key in _places(name) if key in reached), None)
        same = like is not None and program.values[like].shape == value.shape
        for dim, vector in enumerate(coupling.dims[index]):
            other = coupling.dims[like][dim] if like is not None and same else None
            if vector is not None and other is not None:
                coupling.labels.unite(vector, other, lock)
            elif vector is not None:
                coupling.labels.lock(vector, lock)


def _lock_unreached(coupling: Coupling) -> None:
    """Keep indices of which the code could take a part, took another, and which nothing else has to do with.

    They are rows of a table that these example inputs were too short to reach, such as positions.
    """
    labels, program = coupling.labels, coupling.program
    vectors = [
        labels.find(vector[vector != FIXED])
        for index in program.tensors.values()
        if program.values[index].kind == "parameter"
        for vector in coupling.dims[index]
        if vector is not None
    ]
    if not vectors or not coupling.parts:
        return
    places = np.bincount(np.concatenate([np.unique(vector) for vector in vectors]), minlength=len(labels))
    for vector, lock in coupling.parts:
        roots = labels.find(vector[vector != FIXED])
        labels.lock(roots[places[roots] == 1], lock)


def _places(name: str) -> Iterator[tuple[str, ...]]:
    """Yield a name's parts with one number left open: experts.3.weight → experts.*.weight.

    Names like expert_3 count as numbered too.
    """
    parts = name.split(".")
    for at, part in enumerate(parts):
        stem = part.rstrip("0123456789")
        if stem != part:
            yield (*parts[:at], f"{stem}*", *parts[at + 1 :])


def varies(labels: Vector) -> list[int]:
    """Return the dimensions of an array along which its entries differ."""
    return [
        dim
        for dim in range(labels.ndim)
        if labels.shape[dim] > 1 and not (labels == np.take(labels, [0], axis=dim)).all()
    ]


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """Return an operator's argument by position or name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
