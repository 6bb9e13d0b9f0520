"""Granularities: the units that one cut removes, and the properties by which the rest of the package treats them.

A granularity is a frozen dataclass, registered by its kind. It says whether it zeroes weights or removes units, which
elements are scored, and in which blocks weights go; nothing else asks for its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from torch import Tensor

from secateur.core.registry import Registry
from secateur.sparsity.masks import Masks


@dataclass(frozen=True)
class Granularity:
    """A kind of cut; subclasses say what it removes.

    `kind` is its name in lists, `written` the form a user writes, `summary` one line about it. `elements` are the
    nouns by which criteria and compensations name it: "weights", "units", "channels", "heads", "layers".
    """

    kind: ClassVar[str]
    written: ClassVar[str]
    summary: ClassVar[str]
    elements: ClassVar[frozenset[str]]
    removes: ClassVar[bool] = False
    """Whether the model gets smaller, instead of sparser."""
    grouped: ClassVar[bool] = False
    """Whether units of coupled groups are removed."""
    single: ClassVar[bool] = False
    """Whether single entries are cut, so that any mask of the same size is one of this granularity."""

    @classmethod
    def read(cls, text: str) -> Granularity | None:
        """Return the granularity that `text` writes, None for another's. Raises `InputError` for a wrong size."""
        return cls() if text == cls.kind else None

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return self.kind

    @property
    def zeroes(self) -> bool:
        """Whether weights are set to zero under a mask."""
        return not self.removes

    @property
    def amount(self) -> float | None:
        """The fraction that is always removed; None for a granularity that leaves it to the caller."""
        return None

    @property
    def block(self) -> tuple[int, int] | None:
        """Rows and columns of the weight matrix [out, in · kernel] that go together, 0 for all; None for no block."""
        return None

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Return the reason why a weight of this shape can't be cut, None for one that can."""
        return None

    def entries(self, shape: tuple[int, ...]) -> int:
        """Return how many entries of a weight of this shape are cut by themselves."""
        return math.prod(shape)

    def pooled(self, scores: Tensor) -> Tensor:
        """Return one score for each entry that is cut by itself: those of the weights, or the means of blocks."""
        return scores

    def alive(self, mask: Tensor) -> Tensor:
        """Return which entries that are cut by themselves have a weight left under a mask of weights, boolean."""
        return mask

    def spread(self, kept: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the mask of a weight of this shape for the entries that stay, boolean."""
        return kept

    def stage(self, density: float) -> Granularity:
        """Return the granularity of a round after which a fraction `density` is to be left."""
        return self

    def masks(
        self, scores: Mapping[str, Tensor], already: Mapping[str, Tensor], allocate: Callable[..., Masks]
    ) -> Masks:
        """Return the masks of entries for pooled scores; entries that the masks `already` cut stay cut.

        `allocate(scores, already=already)` cuts the amount that the caller chose, the lowest scores first.
        """
        return allocate(scores, already=already)


GRANULARITIES: Registry[type[Granularity]] = Registry("granularity")
Class = TypeVar("Class", bound=type[Granularity])


def granularity(cls: Class) -> Class:
    """Register the decorated class by its kind."""
    GRANULARITIES.add(cls.kind, cls)
    return cls


def kinds_where(holds: Callable[[type[Granularity]], bool]) -> list[str]:
    """Return the kinds of granularity for which something holds, in alphabetical order."""
    return sorted(kind for kind, each in GRANULARITIES.items() if holds(each))
