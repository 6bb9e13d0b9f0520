"""What any cut of a traced model would cost, without making it.

The multiply-accumulates (MACs) of a product are the product of its sizes, and a cut says what every size becomes;
so the parameters and MACs of a plan are exact before anything is cut, and a budget is met by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from secateur.graph.coupling import argument
from secateur.graph.cut import Cut
from secateur.graph.operators import operator_of
from secateur.graph.program import Node


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

    return sum(
        product.macs(partial(argument, node), partial(_shape_of, node, shape))
        for node in cut.coupling.program.evaluation
        if (product := operator_of(node).product) is not None
    )


def _shape_of(node: Node, shape: Callable[[int], tuple[int, ...]], name: str) -> tuple[int, ...]:
    """Return the shape of a node's argument, or of its result for an empty name."""
    return shape(argument(node, name).id if name else node.outputs[0])
