"""Units and the tensors they run through, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur.core.brief import Brief
from secateur.graph.labels import Lock, Vector


@dataclass(frozen=True, repr=False)
class Member(Brief):
    """One dimension of one tensor that a group runs through.

    `unit` holds, for each of the dimension's indices, the unit it belongs to; −1 for one of another group. `buffer`
    says that the tensor is a buffer, which follows but has no say; `reads`, that products sum over the dimension: the
    tensor consumes the units, where others make, shift or scale them; `makes`, that it is a dimension of what products
    make with the tensor: the units are its outputs.
    """

    name: str
    dim: int
    unit: Vector
    buffer: bool = False
    reads: bool = False
    makes: bool = False

    @property
    def index(self) -> tuple[Tensor, ...]:
        """The dimension's indices of each unit: int64 vectors, ascending, not always of one length."""
        order = np.argsort(self.unit, kind="stable")
        ends = np.searchsorted(self.unit[order], np.arange(self.unit.max() + 1))
        return tuple(torch.from_numpy(part) for part in np.split(order, ends)[1:])


@dataclass(frozen=True, repr=False)
class Group:
    """Units that run through the same dimensions.

    `roots` are their labels; `lock` says why none can go; `heads` whether the units are heads of attention.
    """

    name: str
    members: tuple[Member, ...]
    roots: Vector
    lock: Lock | None = None
    heads: bool = False

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(self.roots)

    @property
    def noun(self) -> str:
        """What the units are called."""
        return "heads" if self.heads else "channels"

    def __repr__(self) -> str:
        through = f"{self.units:,} {self.noun} through {len(self.members)} dimensions"
        return f"Group({self.name!r}, {through}" + (
            ")" if self.lock is None else f", stays: {self.lock.reason})"
        )
