"""Granularities: the elements that one cut removes, and the properties by which the rest of the package handles them.

A granularity is a frozen dataclass, registered by its kind. Its attributes are the only source for zeroing or removal,
the scored elements and the blocks of weights; no other module compares its name.
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
    """A kind of cut; each subclass defines the removed elements.

    `kind` is its name in lists, `written` the form in user input, `summary` its one-line description. `elements` are
    the nouns by which criteria and compensations name it: "weights", "units", "channels", "heads", "layers".
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
        """Return the granularity of `text`, None if it is of another class. Raises `InputError` for a wrong size."""
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
        """The fixed fraction removed; None if the caller sets it."""
        return None

    @property
    def block(self) -> tuple[int, int] | None:
        """Rows and columns of a block of the weight matrix [out, in · kernel], 0 for all; None without blocks."""
        return None

    @property
    def multiple(self) -> int:
        """The number of which the input size of a weight must be a multiple; 1 for any size."""
        return 1

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Return the reason for which a weight of this shape can't be cut, None if it can."""
        return None

    def entries(self, shape: tuple[int, ...]) -> int:
        """Return the number of entries of a weight of this shape, an entry being a weight or a block."""
        return math.prod(shape)

    def pooled(self, scores: Tensor) -> Tensor:
        """Return the scores of entries for the scores of weights: the same, or the means of blocks."""
        return scores

    def alive(self, mask: Tensor) -> Tensor:
        """Return the mask of entries, boolean, for a mask of weights: True with at least one weight kept."""
        return mask

    def spread(self, kept: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the mask of a weight of this shape, boolean, for a mask of entries."""
        return kept

    def stage(self, density: float) -> Granularity:
        """Return the granularity of an intermediate round that leaves the fraction `density`."""
        return self

    def masks(
        self, scores: Mapping[str, Tensor], already: Mapping[str, Tensor], allocate: Callable[..., Masks]
    ) -> Masks:
        """Return the masks of entries for pooled scores; entries that the masks `already` cut stay cut.

        `allocate(scores, already=already)` cuts the caller's amount, the lowest scores first.
        """
        return allocate(scores, already=already)


GRANULARITIES: Registry[type[Granularity]] = Registry("granularity")
Class = TypeVar("Class", bound=type[Granularity])


def granularity(cls: Class) -> Class:
    """Register the decorated class by its kind."""
    GRANULARITIES.add(cls.kind, cls)
    return cls


def kinds_where(holds: Callable[[type[Granularity]], bool]) -> list[str]:
    """Return the kinds of granularity whose class fulfils `holds`, in alphabetical order."""
    return sorted(kind for kind, each in GRANULARITIES.items() if holds(each))
