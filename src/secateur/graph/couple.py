"""Couple: move labels through a program and unite what must live and die together.

Every dimension of a value either has a *vector* of labels, one per index, or None: its size must stay. Parameters
start with fresh labels in every dimension, inputs with None. Each operator's rule (see `rules`) says how the
vectors of its outputs follow from those of its operands and what it unites or locks on the way. An operator without
a rule locks what it touches, and so does one whose rule fails (see `guard`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from secateur.graph.coupling import Coupling
from secateur.graph.guard import follow, follow_call
from secateur.graph.labels import FIXED, Lock, Vector
from secateur.graph.program import Program, Value, refs
from secateur.sparsity.targets import DTYPES


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
        follow(coupling, node)
    _follow_ranks(coupling)
    _follow_siblings(coupling)
    _lock_unreached(coupling)
    for number, call in enumerate(program.calls):
        follow_call(coupling, number, call)
    for number, reason in locks:
        call = program.calls[number]
        lock = Lock(reason, f"{call.name} in {program.where_called(number)}")
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


def _follow_ranks(coupling: Coupling) -> None:
    """Have the ranks of entries be as many as these, or a fixed number of them.

    Where they meet a parameter, which has an entry for each rank, both stay.
    """
    labels = coupling.labels
    for entries, ranks, lock in coupling.ordered:
        told = labels.stand_for_parameters(ranks)
        if told:
            labels.lock(entries, lock)
        if told or ranks.size != entries.size:
            labels.lock(ranks, lock)
        else:
            labels.unite(entries, ranks, lock)


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
