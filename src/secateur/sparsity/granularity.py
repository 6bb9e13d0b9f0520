"""What one cut removes.

`weight` removes single weights and spreads the amount by a scope; `N:M` keeps N of every M consecutive input weights,
the pattern sparse tensor cores run, and fixes the amount by itself: both set weights to zero. `channel` removes one
unit of a coupled group from every tensor it runs through, `head` does so for heads of attention only, `layer` removes
whole residual blocks: these make the model smaller.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.sparsity.masks import Masks

SHRINKING_KINDS = ("channel", "head", "layer")
"""Granularities that make the model smaller."""

PATTERN = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")


@dataclass(frozen=True)
class Granularity:
    """A kind of unit; a pattern keeps `kept` of every `of` along the input dimension.

    `kind` is its name among criteria.
    """

    kind: str
    kept: int = 0
    of: int = 0

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return f"{self.kept}:{self.of}" if self.kind == "n:m" else self.kind

    @property
    def amount(self) -> float | None:
        """The fraction a pattern removes; None where the caller chooses it."""
        return 1 - self.kept / self.of if self.kind == "n:m" else None

    @property
    def shrinks(self) -> bool:
        """Whether the model gets smaller, instead of sparser."""
        return self.kind in SHRINKING_KINDS


def parse(text: str) -> Granularity:
    """Read "weight", "channel", "head", "layer" or a pattern such as "2:4".

    Raises `InputError` for anything else, and for N > M.

    >>> parse("2:4").amount
    0.5
    """
    if text == "weight" or text in SHRINKING_KINDS:
        return Granularity(text)
    match = PATTERN.fullmatch(str(text))
    if match is None:
        raise InputError(
            f"There is no granularity '{text}': choose weight, channel, head, layer, or a pattern N:M such as 2:4."
        )
    kept, of = int(match[1]), int(match[2])
    if not 0 < kept <= of:
        raise InputError(f"The pattern {text} makes no sense: N:M keeps N of every M weights, so 0 < N ≤ M.")
    return Granularity("n:m", kept, of)


def misfit(shape: tuple[int, ...], pattern: Granularity) -> str | None:
    """Say why a weight of this shape can't be cut by `pattern`, None where it can."""
    if len(shape) < 2:
        return "it has no input dimension"
    return f"its input size {shape[1]} is not a multiple of {pattern.of}" if shape[1] % pattern.of else None


def keep_patterns(
    scores: Mapping[str, Tensor], pattern: Granularity, already: Mapping[str, Tensor] | None = None
) -> Masks:
    """Cut every tensor by `pattern`; what the masks `already` cut stays cut and counts as lowest.

    So a group keeps N entries, or all that earlier masks left it where that is fewer.
    Raises `InputError` for scores that are NaN or infinite.
    """
    earlier = Masks(already or {})
    masks = {}
    for name, tensor in scores.items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"The scores of {name} hold NaN or infinity: they cannot be ranked.")
        if name in earlier:
            alive = earlier[name].to(tensor.device)
            masks[name] = keep_pattern(tensor.masked_fill(~alive, -math.inf), pattern) & alive
        else:
            masks[name] = keep_pattern(tensor, pattern)
    return Masks(masks)


def keep_pattern(scores: Tensor, pattern: Granularity) -> Tensor:
    """Return the mask that keeps the N highest of every M consecutive scores along dimension 1.

    `scores` is [out, in, *kernel] with `in` a multiple of M; groups run over `in` for each output and kernel
    position. Among equal scores the earlier one is cut first.

    >>> keep_pattern(torch.tensor([[1.0, 4.0, 3.0, 2.0]]), parse("2:4"))
    tensor([[False,  True,  True, False]])
    """
    along = scores.movedim(1, -1)
    grouped = along.reshape(*along.shape[:-1], along.shape[-1] // pattern.of, pattern.of)
    order = grouped.argsort(dim=-1, stable=True)
    highest = order[..., pattern.of - pattern.kept :]
    kept = torch.zeros_like(grouped, dtype=torch.bool).scatter_(-1, highest, True)
    return kept.flatten(-2).movedim(-1, 1)
