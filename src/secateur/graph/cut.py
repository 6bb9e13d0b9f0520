"""A hypothetical cut: which units stay, and what every size of the program would then be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.core.brief import Brief
from secateur.graph.coupling import Coupling
from secateur.graph.groups import Group
from secateur.graph.labels import FIXED, Vector


@dataclass(frozen=True, repr=False)
class Cut(Brief):
    """`removed` are the representatives of the labels that go; all that is united with them goes too."""

    coupling: Coupling
    removed: Vector

    @classmethod
    def of(cls, coupling: Coupling, units: Iterable[tuple[Group, NDArray[np.bool_]]]) -> Cut:
        """Make a cut of groups and, for each, which of its units stay."""
        gone = [group.roots[~keep] for group, keep in units]
        return cls(coupling, np.concatenate([*gone, np.empty(0, dtype=np.int64)]))

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        """Whether each label stays."""
        labels = self.coupling.labels
        alive = np.ones(len(labels), dtype=bool)
        alive[self.removed] = False
        return alive[labels.find(np.arange(len(labels), dtype=np.int64))]

    def kept(self, vector: Vector) -> NDArray[np.bool_]:
        """Whether each index of a dimension stays."""
        stay: NDArray[np.bool_] = self.alive[vector] | (vector == FIXED)
        return stay

    def count(self, vector: Vector) -> int:
        """How many indices of a dimension stay."""
        return int(self.kept(vector).sum())

    def shape(self, value: int) -> tuple[int, ...]:
        """The shape a value would have."""
        before, dims = self.coupling.program.values[value].shape, self.coupling.dims[value]
        return tuple(
            size if vector is None else self.count(vector) for size, vector in zip(before, dims, strict=True)
        )

    def kept_indices(self) -> dict[str, dict[int, Tensor]]:
        """Return for every parameter and buffer that shrinks: dimension → indices that stay."""
        kept: dict[str, dict[int, Tensor]] = {}
        for name, index in self.coupling.program.tensors.items():
            for dim, vector in enumerate(self.coupling.dims[index]):
                if vector is not None and not (stay := self.kept(vector)).all():
                    kept.setdefault(name, {})[dim] = torch.from_numpy(np.flatnonzero(stay))
        return kept
