"""Patterns N:M: N of every M consecutive input weights are kept, the format of sparse tensor cores."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.sparsity.granularity.base import Granularity, granularity
from secateur.sparsity.masks import Masks

PATTERN = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")


@granularity
@dataclass(frozen=True)
class Pattern(Granularity):
    """`kept` of every `of` consecutive weights along the input dimension, for each output and kernel position."""

    kept: int
    of: int
    kind = "n:m"
    written = "a pattern N:M such as 2:4"
    summary = "N of every M consecutive input weights stay, the others are set to zero"
    elements = frozenset({"weights"})

    @classmethod
    def read(cls, text: str) -> Pattern | None:
        """Return the pattern of a text such as "2:4", None for others. Raises `InputError` for N > M."""
        match = PATTERN.fullmatch(text)
        if match is None:
            return None
        kept, of = int(match[1]), int(match[2])
        if not 0 < kept <= of:
            raise InputError(
                f"The pattern {text} makes no sense: N:M keeps N of every M weights, so 0 < N ≤ M."
            )
        return cls(kept, of)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return f"{self.kept}:{self.of}"

    @property
    def amount(self) -> float:
        """The fraction removed, 1 − N / M."""
        return 1 - self.kept / self.of

    @property
    def multiple(self) -> int:
        """M: a group of M input weights must not end half way."""
        return self.of

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Return the reason for which a weight of this shape can't be cut by the pattern, None if it can."""
        if len(shape) < 2:
            return "it has no input dimension"
        return f"its input size {shape[1]} is not a multiple of {self.of}" if shape[1] % self.of else None

    def stage(self, density: float) -> Pattern:
        """Return the pattern with M unchanged that leaves the fraction `density`, at least N weights."""
        return replace(self, kept=max(self.kept, round(self.of * density)))

    def masks(
        self,
        scores: Mapping[str, Tensor],
        already: Mapping[str, Tensor] | None = None,
        allocate: Callable[..., Masks] | None = None,
    ) -> Masks:
        """Return masks that keep the N highest scores of every group.

        Entries cut by the masks `already` stay cut and count as lowest, so that a group keeps N entries, or fewer if
        earlier masks left fewer. Raises `InputError` for scores that are NaN or infinite.
        """
        earlier = Masks(already or {})
        masks = {}
        for name, tensor in scores.items():
            if not bool(tensor.isfinite().all()):
                raise InputError(f"The scores of {name} hold NaN or infinity: they cannot be ranked.")
            if name in earlier:
                alive = earlier[name].to(tensor.device)
                masks[name] = self.mask(tensor.masked_fill(~alive, -math.inf)) & alive
            else:
                masks[name] = self.mask(tensor)
        return Masks(masks)

    def mask(self, scores: Tensor) -> Tensor:
        """Return the mask that keeps the N highest of every M consecutive scores along dimension 1.

        `scores` is [out, in, *kernel] with `in` a multiple of M; groups run over `in` for each output and kernel
        position. Among equal scores the earlier one is cut first.

        >>> Pattern(2, 4).mask(torch.tensor([[1.0, 4.0, 3.0, 2.0]]))
        tensor([[False,  True,  True, False]])
        """
        along = scores.movedim(1, -1)
        grouped = along.reshape(*along.shape[:-1], along.shape[-1] // self.of, self.of)
        order = grouped.argsort(dim=-1, stable=True)
        kept = torch.zeros_like(grouped, dtype=torch.bool)
        return kept.scatter_(-1, order[..., self.of - self.kept :], True).flatten(-2).movedim(-1, 1)
