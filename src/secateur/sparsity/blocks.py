"""Blocks of a weight matrix that are cut together: single weights, tiles, rows, heads."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from secateur.core.errors import InputError

BLOCK = re.compile(r"([1-9][0-9]{0,6}|all)x([1-9][0-9]{0,6}|all)")


@dataclass(frozen=True)
class Blocks:
    """Blocks of `rows` × `columns` of a weight as a matrix [out, in · kernel]; those at the edges may be smaller.

    0 means all. "1x1" is single weights, "1xall" whole outputs (filters, neurons), "64xall" heads of size 64.
    """

    rows: int
    columns: int

    @classmethod
    def parse(cls, text: str) -> Blocks:
        """Read a text such as "32x32" or "1xall". Raises `InputError` for any other."""
        match = BLOCK.fullmatch(str(text))
        if match is None:
            raise InputError(
                f"There is no block '{text}': write rows x columns, as 1x1, 32x32, or 1xall for rows."
            )
        rows, columns = (0 if size == "all" else int(size) for size in match.groups())
        return cls(rows, columns)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return "x".join(str(size) if size else "all" for size in (self.rows, self.columns))

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Return the rows and columns of the matrix, then those of a block."""
        height = shape[0] if shape else 1
        width = math.prod(shape[1:])
        return height, width, min(self.rows, height) or height, min(self.columns, width) or width

    def count(self, shape: tuple[int, ...]) -> int:
        """Return the number of blocks of a weight of this shape, those at the edges included."""
        height, width, rows, columns = self._sizes(shape)
        return math.ceil(height / rows) * math.ceil(width / columns)

    @property
    def single(self) -> bool:
        """Whether blocks are single weights."""
        return self.rows == self.columns == 1

    def spread(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of `shape` with the value of each weight's block; `values` has the shape of `means`."""
        if self.single:
            return values
        height, width, rows, columns = self._sizes(shape)
        tall = values.repeat_interleave(rows, 0)[:height]
        return tall.repeat_interleave(columns, 1)[:, :width].reshape(shape)

    def means(self, values: Tensor) -> Tensor:
        """Return the mean of each block, [blocks down, blocks across]; single weights keep their shape."""
        if self.single:
            return values
        height, width, rows, columns = self._sizes(tuple(values.shape))
        matrix = values.reshape(1, 1, height, width)
        return functional.avg_pool2d(matrix, (rows, columns), ceil_mode=True, count_include_pad=False)[0, 0]
