"""Products: the operators that multiply two tensors and sum, one row each.

A row says which arguments are multiplied, what is summed over and how many multiply-accumulates (MACs) that takes.
From it follow the operator's label rule, which dimensions of a weight are read, and the cost of any cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Shape = tuple[int, ...]
ArgumentOf = Callable[..., Any]
"""(name, default where the operator has none of this name) → an operator's argument."""
ShapeOf = Callable[[str], Shape]
"""Name → shape of an operator's tensor argument; "" stands for its result."""


@dataclass(frozen=True)
class MatrixProduct:
    """A product that sums over dimensions of `left` and `right`, the names of two arguments.

    `equation` gives the dimensions of both and of the result a letter each, as for `torch.einsum`, and `…` for any
    number of them in front. `addend` names the argument that is added to the result.
    """

    equation: str
    left: str
    right: str
    addend: str | None = None

    @cached_property
    def letters(self) -> tuple[str, str, str]:
        """The letters of the dimensions of left, right and result; … is one of them."""
        operands, result = self.equation.split("->")
        left, right = operands.split(",")
        return left, right, result

    @cached_property
    def summed(self) -> str:
        """The letters that both have and the result has not."""
        left, right, result = self.letters
        return "".join(letter for letter in left if letter in right and letter not in result)

    @property
    def factors(self) -> tuple[str, ...]:
        """The arguments that may be a weight."""
        return self.left, self.right

    @property
    def of_rows(self) -> bool:
        """Whether it multiplies rows, the last dimension of left, with one matrix, as a linear layer does."""
        left, right, result = self.letters
        return (
            len(right) == 2 and left[:-1] == result[:-1] and self.summed == left[-1] and result[-1] in right
        )

    def over(self, argument: ArgumentOf) -> list[tuple[str, int]]:
        """Return (argument, dimension) of all that the product sums over, dimensions counted from the last: −1."""
        sides = ((self.left, self.letters[0]), (self.right, self.letters[1]))
        return [(name, side.index(k) - len(side)) for name, side in sides for k in self.summed]

    def makes(self, argument: ArgumentOf, shape: ShapeOf) -> list[tuple[str, int]]:
        """Return (argument, dimension) of each dimension of the result that one factor alone has, counted as `over`."""
        left, right, result = self.letters
        sides = ((self.left, left, right), (self.right, right, left))
        return [
            (name, side.index(k) - len(side))
            for name, side, other in sides
            for k in side
            if k != "…" and k in result and k not in other
        ]

    def macs(self, argument: ArgumentOf, shape: ShapeOf) -> int:
        """Each entry of the left meets each column of the right."""
        left, right, result = self.letters
        sizes = zip(reversed(right), reversed(shape(self.right)), strict=False)
        columns = (size for letter, size in sizes if letter in result and letter not in left)
        return math.prod(shape(self.left)) * math.prod(columns)


@dataclass(frozen=True)
class Convolution:
    """Weights [O, I/g, …] over an input [N, I, …]; transposed ones are [I, O/g, …].

    `transposed` is True where the operator always is, False where its arguments say so, if anything does. `shifted`
    says that it looks at places that another tensor gives, in place of those beside each other.
    """

    left: str = "input"
    right: str = "weight"
    addend: str | None = "bias"
    transposed: bool = False
    shifted: bool = False

    @property
    def factors(self) -> tuple[str, ...]:
        """The argument that may be a weight."""
        return (self.right,)

    def is_transposed(self, argument: ArgumentOf) -> bool:
        """Whether this use of the operator is transposed."""
        return self.transposed or bool(argument("transposed", False))

    def over(self, argument: ArgumentOf) -> list[tuple[str, int]]:
        """Return (argument, dimension) of what the weight sums over; none where its groups are units."""
        transposed = self.is_transposed(argument)
        return [] if transposed and argument("groups") > 1 else [(self.right, 0 if transposed else 1)]

    def makes(self, argument: ArgumentOf, shape: ShapeOf) -> list[tuple[str, int]]:
        """Return (argument, dimension) of the channels made; a depthwise one makes none, it filters its input's."""
        transposed, grouped = self.is_transposed(argument), argument("groups") > 1
        if grouped and (transposed or shape(self.right)[1] == 1):
            return []
        return [(self.right, 1 if transposed else 0)]

    def macs(self, argument: ArgumentOf, shape: ShapeOf) -> int:
        """Each weight is used once for each output position (transposed: input position) and sample."""
        at = shape(self.left if self.is_transposed(argument) else "")
        return math.prod(shape(self.right)) * at[0] * math.prod(at[2:])


OperatorProduct = MatrixProduct | Convolution

PRODUCTS: Mapping[str, OperatorProduct] = {
    "mm": MatrixProduct("ik,kj->ij", "self", "mat2"),
    "_int_mm": MatrixProduct("ik,kj->ij", "self", "mat2"),
    "addmm": MatrixProduct("ik,kj->ij", "mat1", "mat2", "self"),
    "linear": MatrixProduct("…k,jk->…j", "input", "weight", "bias"),
    "bmm": MatrixProduct("bik,bkj->bij", "self", "mat2"),
    "baddbmm": MatrixProduct("bik,bkj->bij", "batch1", "batch2", "self"),
    "addbmm": MatrixProduct("bik,bkj->ij", "batch1", "batch2", "self"),
    "mv": MatrixProduct("ik,k->i", "self", "vec"),
    "addmv": MatrixProduct("ik,k->i", "mat", "vec", "self"),
    "dot": MatrixProduct("k,k->", "self", "tensor"),
    "vdot": MatrixProduct("k,k->", "self", "other"),
    "_grouped_mm": MatrixProduct("tk,ekj->tj", "self", "mat2"),
    "_scaled_grouped_mm": MatrixProduct("tk,ekj->tj", "self", "mat2"),
    "convolution": Convolution(),
    "_convolution": Convolution(),
    "convolution_overrideable": Convolution(),
    "deform_conv2d": Convolution(shifted=True),
    "mkldnn_convolution": Convolution("self"),
    "cudnn_convolution": Convolution("self", addend=None),
    "cudnn_convolution_transpose": Convolution("self", addend=None, transposed=True),
}
"""Operator → its row; an operator that writes in place (`addmm_`) is meant too."""
