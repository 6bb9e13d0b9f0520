"""What one cut removes.

A granularity turns scores into masks. `weight` removes single weights and spreads the amount by a scope; `N:M`
keeps N of every M consecutive input weights, the pattern sparse tensor cores run, and fixes the amount by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InputError

PATTERN = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class Granularity:
    """`weight`, or the pattern `kept`:`of` along the input dimension. `kind` is its name among criteria."""

    kind: str
    kept: int = 0
    of: int = 0

    @property
    def amount(self) -> float | None:
        """The fraction a pattern removes; None where the caller chooses it."""
        return None if self.kind == "weight" else 1 - self.kept / self.of


def parse(text: str) -> Granularity:
    """Read "weight" or a pattern such as "2:4". Raises `InputError` for anything else, and for N > M.

    >>> parse("2:4").amount
    0.5
    """
    if text == "weight":
        return Granularity("weight")
    match = PATTERN.fullmatch(text)
    if match is None:
        raise InputError(f"There is no granularity '{text}': choose weight, or a pattern N:M such as 2:4.")
    kept, of = int(match[1]), int(match[2])
    if not 0 < kept <= of:
        raise InputError(f"The pattern {text} makes no sense: N:M keeps N of every M weights, so 0 < N ≤ M.")
    return Granularity("n:m", kept, of)


def fits(shape: tuple[int, ...], pattern: Granularity) -> bool:
    """Whether the input dimension (1) of a weight of this shape divides into groups of `pattern.of`."""
    return len(shape) >= 2 and shape[1] % pattern.of == 0


def keep_pattern(scores: Tensor, pattern: Granularity) -> Tensor:
    """Return the mask that keeps the N highest of every M consecutive scores along dimension 1.

    `scores` is [out, in, *kernel] with `in` a multiple of M; groups run over `in` for each output and kernel
    position. Among equal scores the earlier one is cut first.

    >>> keep_pattern(torch.tensor([[1.0, 4.0, 3.0, 2.0]]), parse("2:4"))
    tensor([[False,  True,  True, False]])
    """
    grouped = scores.movedim(1, -1).unflatten(-1, (-1, pattern.of))
    order = grouped.argsort(dim=-1, stable=True)
    kept = torch.zeros_like(grouped, dtype=torch.bool).scatter_(
        -1, order[..., pattern.of - pattern.kept :], True
    )
    return kept.flatten(-2).movedim(-1, 1)
