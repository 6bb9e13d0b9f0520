"""What any cut of a traced model would cost, without making it.

The multiply-accumulates (MACs) of a product are the product of its sizes, and a cut says what every size becomes;
so the parameters and MACs of a plan are exact before anything is cut, and a budget is met by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from secateur.graph.cut import Cut
from secateur.graph.program import Node

ShapeLookup = Callable[[int], tuple[int, ...]]


def parameters(cut: Cut) -> int:
    """Return how many parameters the model would have; tied ones count once."""
    program = cut.coupling.program
    return sum(
        math.prod(cut.shape(index))
        for index in program.tensors.values()
        if program.values[index].kind == "parameter"
    )


def macs(cut: Cut) -> int:
    """Return the MACs of one forward pass on the traced inputs: convolutions and matrix products."""
    shapes: dict[int, tuple[int, ...]] = {}

    def shape(value: int) -> tuple[int, ...]:
        if value not in shapes:
            shapes[value] = cut.shape(value)
        return shapes[value]

    return sum(MACS[node.op](node, shape) for node in cut.coupling.program.evaluation if node.op in MACS)


def _matrix(first: int) -> Callable[[Node, ShapeLookup], int]:
    """[…, i, k] × [k, j]: all of the left times the right's columns."""

    def count(node: Node, shape: ShapeLookup) -> int:
        return math.prod(shape(node.args[first].id)) * shape(node.args[first + 1].id)[-1]

    return count


def _convolution(node: Node, shape: ShapeLookup) -> int:
    """Each weight is used once for each output position (transposed: input position) and sample."""
    transposed = node.args[6]
    at = shape(node.args[0].id if transposed else node.outputs[0])
    return math.prod(shape(node.args[1].id)) * at[0] * math.prod(at[2:])


MACS: dict[str, Callable[[Node, ShapeLookup], int]] = {
    "mm": _matrix(0),
    "addmm": _matrix(1),
    "bmm": _matrix(0),
    "baddbmm": _matrix(1),
    "_grouped_mm": _matrix(0),
    "convolution": _convolution,
    "_convolution": _convolution,
}
