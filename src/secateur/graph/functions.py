"""The table of functions: what is known of calls of torch functions by name, one row each.

Operators say what data did; calls say what the code would do with other sizes. So these rows tell which arguments of a
call are sizes. What a cut makes of them is told in `shrink/size_arguments.py`, by the kinds of `Sizes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from secateur.graph.coupling import Coupling
from secateur.graph.program import Call
from secateur.graph.rules.contraction import attention

CallRule = Callable[[Coupling, int, Call], None]


class Sizes(Enum):
    """What the numbers among a function's arguments are."""

    SHAPE = "the sizes of the result"
    UNFLATTENED = "the sizes of a run of the result's dimensions"
    PARTS = "the size of each part, or one for all"
    SLICES = "starts and ends of slices"
    RANGE = "start and length of a range"
    PADDING = "numbers of constants before and after"
    GROUPS = "the number of groups"
    TRAILING = "the sizes of the trailing dimensions"
    VALUES = "numbers to compute with, made from sizes"


@dataclass(frozen=True)
class Argument:
    """An argument of a function: its position, from 0, and its name."""

    position: int
    name: str

    def of(self, call: Call, default: Any = None) -> Any:
        """Return what a call was given for it."""
        given = call.args[self.position] if self.position < len(call.args) else call.kwargs.get(self.name)
        return default if given is None else given

    def place(self, call: Call) -> tuple[int | str]:
        """Return where it is in a call."""
        return (self.position,) if self.position < len(call.args) else (self.name,)


@dataclass(frozen=True)
class Function:
    """All that is known of calls of one torch function.

    `sizes` says what numbers it takes, and `arguments` where, if they are not found by what they are.
    """

    name: str
    sizes: Sizes | None = None
    arguments: tuple[Argument, ...] = ()
    rule: CallRule | None = None
    """Does what must be done about a call beyond the rules of its operators."""
    reads_size: bool = False
    """It gives sizes of a tensor."""


def rows(*names: str, **facts: Any) -> Iterator[Function]:
    """Return a row with the same facts for each of these functions."""
    return (Function(name, **facts) for name in names)


FUNCTIONS: Mapping[str, Function] = {
    row.name: row
    for row in (
        *rows(
            "torch.Tensor.view", "torch.Tensor.reshape", "torch.reshape", "torch.Tensor.expand",
            "torch.broadcast_to", "torch.Tensor.broadcast_to", "torch.Tensor.resize_",
            "torch.zeros", "torch.ones", "torch.full", "torch.empty", "torch.rand", "torch.randn",
            "torch.Tensor.new_zeros", "torch.Tensor.new_ones", "torch.Tensor.new_full", "torch.Tensor.new_empty",
            sizes=Sizes.SHAPE,
        ),
        *rows(
            "torch.Tensor.unflatten", "torch.unflatten",
            sizes=Sizes.UNFLATTENED, arguments=(Argument(1, "dim"), Argument(2, "sizes")),
        ),
        *rows(
            "torch.functional.split",
            sizes=Sizes.PARTS, arguments=(Argument(1, "split_size_or_sections"), Argument(2, "dim")),
        ),
        *rows(
            "torch.Tensor.split",
            sizes=Sizes.PARTS, arguments=(Argument(1, "split_size"), Argument(2, "dim")),
        ),
        *rows(
            "torch.Tensor.split_with_sizes", "torch.split_with_sizes",
            sizes=Sizes.PARTS, arguments=(Argument(1, "split_sizes"), Argument(2, "dim")),
        ),
        *rows("torch.Tensor.__getitem__", "torch.Tensor.__setitem__", sizes=Sizes.SLICES),
        *rows(
            "torch.Tensor.narrow", "torch.narrow",
            sizes=Sizes.RANGE, arguments=(Argument(1, "dim"), Argument(2, "start"), Argument(3, "length")),
        ),
        *rows(
            "torch.nn.functional.pad", "torch._C._nn.pad", "torch.constant_pad_nd",
            sizes=Sizes.PADDING, arguments=(Argument(1, "pad"),),
        ),
        *rows(
            "torch.nn.functional.group_norm", "torch.group_norm",
            sizes=Sizes.GROUPS, arguments=(Argument(1, "num_groups"),),
        ),
        *rows(
            *(f"torch.nn.functional.conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)),
            sizes=Sizes.GROUPS, arguments=(Argument(6, "groups"),),
        ),
        *rows(
            "torch.nn.functional.layer_norm", "torch.layer_norm", "torch.nn.functional.rms_norm", "torch.rms_norm",
            sizes=Sizes.TRAILING, arguments=(Argument(1, "normalized_shape"),),
        ),
        *rows(
            *(f"torch.{home}{name}" for home in ("", "Tensor.") for name in (
                "mul", "div", "add", "sub", "true_divide", "pow", "divide", "multiply", "subtract", "clamp", "where",
            )),
            "torch.Tensor.mul_", "torch.Tensor.div_", "torch.Tensor.add_", "torch.Tensor.sub_", "torch.rsub",
            "torch.Tensor.__rsub__", "torch.Tensor.__rtruediv__", "torch.Tensor.__rpow__", "torch.baddbmm",
            "torch.tensor", "torch.as_tensor", "torch.asarray", "torch.scalar_tensor",
            sizes=Sizes.VALUES,
        ),
        *rows("torch.nn.functional.scaled_dot_product_attention", sizes=Sizes.VALUES, rule=attention),
        *rows("torch.Tensor.shape.__get__", "torch.Tensor.size", reads_size=True),
    )
}  # fmt: skip
COUNTED = frozenset(
    f"torch.{home}{name}"
    for home in ("", "Tensor.", "functional.")
    for name in (
        "__len__",
        "__iter__",
        "numel",
        "tolist",
        "unbind",
        "split",
        "chunk",
        "tensor_split",
        "view_as",
    )
)
"""Functions that follow a size without reading it, beside those that read it."""
SIZE_READERS = frozenset(name for name, row in FUNCTIONS.items() if row.reads_size)
