"""Blocks of weights, set to zero together: the format of block-sparse kernels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from secateur.sparsity.blocks import Blocks
from secateur.sparsity.granularity.base import Granularity, granularity

PREFIX = "block:"


@granularity
@dataclass(frozen=True)
class Block(Granularity):
    """A block of the weight matrix [out, in · kernel].

    The score of a block is the mean score of its weights. Exactly round(amount · blocks) are cut; a smaller block at
    the edge of a matrix counts as one.
    """

    blocks: Blocks
    kind = "block"
    written = "blocks such as block:16x16"
    summary = "blocks of the weight matrix [out, in · kernel], set to zero together"
    elements = frozenset({"weights"})

    @classmethod
    def read(cls, text: str) -> Block | None:
        """Return the granularity of a text such as "block:16x16" or "block:1xall", None for others."""
        return cls(Blocks.parse(text.removeprefix(PREFIX))) if text.startswith(PREFIX) else None

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return f"{PREFIX}{self.blocks}"

    @property
    def block(self) -> tuple[int, int] | None:
        """Rows and columns of a block, 0 for all."""
        return self.blocks.rows, self.blocks.columns

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Return the reason for which a weight of this shape has no blocks, None if it has."""
        if len(shape) < 2:
            return "it is no matrix"
        return None if min(shape) else "it has no entries"

    def entries(self, shape: tuple[int, ...]) -> int:
        """Return the number of blocks of a weight of this shape."""
        return self.blocks.count(shape)

    def pooled(self, scores: Tensor) -> Tensor:
        """Return the mean score of each block, [blocks down, blocks across]."""
        scores = scores if scores.is_floating_point() and scores.itemsize > 2 else scores.float()
        return self.blocks.means(scores)

    def alive(self, mask: Tensor) -> Tensor:
        """Return the mask of blocks with at least one weight kept, boolean [blocks down, blocks across]."""
        return self.blocks.means(mask.float()) > 0

    def spread(self, kept: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the mask of a weight of this shape for a mask of blocks."""
        return self.blocks.spread(kept, shape)
