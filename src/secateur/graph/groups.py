"""Groups: which indices of which tensors live and die together, as plain values.

A *unit* is a set of indices that can only be removed together: an output channel with its bias, its normalisation
and the input weights that read it; a head; a feature of the residual stream. A *group* is all units that run
through the same dimensions of the same tensors. This is what `analyze` returns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from secateur.graph.coupling import Coupling, RuleFault
from secateur.graph.labels import FIXED, KERNEL, Vector
from secateur.graph.outline import branches, drawn
from secateur.graph.readers import making, reading
from secateur.graph.units import Group, Member

__all__ = ["Group", "Groups", "Member", "group"]


@dataclass(frozen=True, repr=False)
class Groups:
    """All groups of a model, in the order of its parameters, and what coupling noticed."""

    groups: tuple[Group, ...]
    coupling: Coupling = field(repr=False)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups that may be cut."""
        return tuple(group for group in self.groups if group.lock is None and group.units > 1)

    @property
    def left(self) -> dict[str, str]:
        """Why each group that may not be cut must stay, by its name: a lock, or that all its indices are one unit."""
        sizes = {each.inputs for each in self.coupling.program.passes}
        seen = f" on inputs {' and '.join(sorted(sizes))}" if len(sizes) > 1 else ""
        one = f"all of its indices belong together{seen}"
        return {
            each.name: one if each.lock is None else f"{each.lock.reason} ({each.lock.at})"
            for each in self.groups
            if each.lock is not None or each.units == 1
        }

    @property
    def unknown(self) -> dict[str, int]:
        """Operators without a rule, or in a form it does not know, by how often they were met."""
        return dict(self.coupling.unknown)

    @property
    def faults(self) -> dict[RuleFault, int]:
        """The rules that failed, by how often they did."""
        return dict(self.coupling.faults)

    def __repr__(self) -> str:
        units = sum(group.units for group in self.free)
        free = f"{len(self)} groups, {len(self.free)} of which may be cut, with {units:,} units"
        return f"Groups({free}; print(groups.tree()) shows them)"

    def tree(self) -> str:
        """Return a text: the groups that may be cut with their tensors, then what stays, by reason."""
        return drawn(repr(self).partition(";")[0].removeprefix("Groups("), branches(self.coupling, self))


def group(coupling: Coupling) -> Groups:
    """Collect what coupling united into groups."""
    program, labels = coupling.program, coupling.labels
    locked_by, locks = labels.locked()
    slots: list[tuple[str, int, Vector, bool]] = []
    for name, index in program.tensors.items():
        value = program.values[index]
        for dim, vector in enumerate(coupling.dims[index]):
            if vector is not None:
                slots.append((name, dim, labels.find(vector), value.kind == "buffer"))
    signature = _signatures(len(labels), slots)
    parameters = [slot for slot in slots if not slot[3]]
    groups: dict[tuple[int, int], list[Vector]] = {}
    order: dict[int, tuple[int, int]] = {}
    for _, _, roots, _ in parameters:
        fresh = np.unique(roots[roots != FIXED])
        keys = signature[fresh]
        for key in np.unique(keys):
            members = fresh[keys == key]
            for lock in np.unique(locked_by[members]):
                both = (int(key), int(lock))
                if both not in order.values():
                    order[len(order)] = both
                    groups[both] = [members[locked_by[members] == lock]]
    found = []
    by_signature: dict[int, list[tuple[str, int, Vector, bool]]] = {}
    for slot in slots:
        for key in np.unique(signature[slot[2][slot[2] != FIXED]]):
            by_signature.setdefault(int(key), []).append(slot)
    names: Counter[str] = Counter()
    read, made = reading(coupling), making(coupling)
    number = np.full(len(labels), -1, dtype=np.int64)
    parallel = np.zeros(len(labels), dtype=bool)
    for heads in coupling.heads:
        parallel[labels.find(heads)] = True
    for (key, lock), members in groups.items():
        if lock >= 0 and locks[lock].reason == KERNEL:
            continue
        roots = members[0]
        number[roots] = np.arange(len(roots))
        inside = []
        for name, dim, vector, buffer in by_signature[key]:
            unit = np.where(vector == FIXED, -1, number[vector])
            if (unit >= 0).any():
                own = coupling.dims[program.tensors[name]][dim]
                inside.append(Member(name, dim, unit, buffer, bool(read[own].any()), bool(made[own].any())))
        number[roots] = -1
        inside.sort(key=lambda member: member.buffer)
        first = inside[0].name
        names[first] += 1
        label = first if names[first] == 1 else f"{first}#{names[first]}"
        reason = locks[lock] if lock >= 0 else None
        found.append(Group(label, tuple(inside), roots, reason, bool(parallel[roots].any())))
    return Groups(tuple(found), coupling)


def _signatures(count: int, slots: list[tuple[str, int, Vector, bool]]) -> Vector:
    """Return for each label a number that says through which parameter dimensions it runs."""
    random = np.random.default_rng(0)
    signature = np.zeros(count, dtype=np.int64)
    for _, _, roots, buffer in slots:
        if not buffer:
            signature[np.unique(roots)] ^= random.integers(1, 2**62)
    return signature
