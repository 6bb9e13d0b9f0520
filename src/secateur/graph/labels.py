"""Labels and which of them are one: a union-find over integer arrays.

Every index that may be cut carries a label, an integer from 1; 0 is a position that must stay. Labels that must
live and die together are united; whole arrays at a time, without a Python loop over them. A label is *real* once a
parameter's index is among those it is united with: sizes of constants and of broadcasts have labels too, which only
follow others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.int64]
FIXED = 0
KERNEL = "it is part of a kernel"
"""The one reason to stay that needs no mention."""


class Lock(NamedTuple):
    """Why labels must stay: `reason` as a clause, `at` the operator and source line."""

    reason: str
    at: str


class Labels:
    """All labels of one model, united as the operators demand."""

    def __init__(self) -> None:
        self._parent: Vector = np.zeros(1, dtype=np.int64)
        self._real = np.zeros(1, dtype=bool)
        self._stuck = np.zeros(1, dtype=bool)
        self._count = 1
        self._locks: list[tuple[Vector, Lock]] = []
        self.united: list[Vector] = []
        """What was united since somebody last emptied this list."""

    def __len__(self) -> int:
        return self._count

    def fresh(self, count: int, *, real: bool = False) -> Vector:
        """Return `count` labels that are united with nothing."""
        first, self._count = self._count, self._count + count
        if self._count > len(self._parent):
            room = max(self._count, 2 * len(self._parent))
            self._parent = np.concatenate([self._parent, np.arange(len(self._parent), room)])
            more = np.zeros(room - len(self._real), dtype=bool)
            self._real, self._stuck = np.concatenate([self._real, more]), np.concatenate([self._stuck, more])
        self._real[first : self._count] = real
        return np.arange(first, self._count, dtype=np.int64)

    def find(self, labels: Vector) -> Vector:
        """Return the representative of each label: the lowest label it is united with."""
        parent = self._parent
        roots = parent[labels]
        while True:
            above = parent[roots]
            if (above == roots).all():
                break
            roots = above
        parent[labels] = roots
        return roots

    def unite(self, left: Vector, right: Vector, lock: Lock) -> None:
        """Make each label of `left` one with its partner in `right`; what meets a fixed position is locked."""
        left, right = np.broadcast_arrays(left, right)
        left, right = left.ravel(), right.ravel()
        self.united += (left, right)
        fixed = (left == FIXED) | (right == FIXED)
        if fixed.any():
            self.lock(np.concatenate([left[fixed], right[fixed]]), lock)
            left, right = left[~fixed], right[~fixed]
        before = self.find(np.concatenate([left, right]))
        while left.size:
            left, right = self.find(left), self.find(right)
            apart = left != right
            left, right = left[apart], right[apart]
            # where several want the same, one wins; the next round unites the rest
            self._parent[np.maximum(left, right)] = np.minimum(left, right)
        after = self.find(before)
        for flags in (self._real, self._stuck):
            flags[after[flags[before]]] = True

    def lock(self, labels: Vector, lock: Lock) -> None:
        """Keep every one of these labels."""
        labels = labels[labels != FIXED]
        if labels.size:
            self._locks.append((labels, lock))
            self._stuck[self.find(labels)] = True

    def stand_for_parameters(self, labels: Vector) -> bool:
        """Whether some of these labels stand for parameters."""
        return bool(self._real[self.find(labels)].any())

    def free(self, labels: Vector) -> bool:
        """Whether some of these labels stand for parameters and are not locked yet."""
        roots = self.find(labels)
        return bool((self._real[roots] & ~self._stuck[roots]).any())

    def locked(self) -> tuple[Vector, list[Lock]]:
        """Return for every label the number of the lock on its representative, −1 for none, and all locks."""
        by_root = np.full(self._count, -1, dtype=np.int64)
        for number in range(len(self._locks) - 1, -1, -1):
            by_root[self.find(self._locks[number][0])] = number
        roots = self.find(np.arange(self._count, dtype=np.int64))
        return by_root[roots], [lock for _, lock in self._locks]
