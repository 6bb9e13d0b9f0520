"""Which dimensions of a model's tensors are read: summed over when an activation meets the tensor.

Of a unit's members, those that are read consume it; the others produce it, shift it or scale it.
"""

from __future__ import annotations

import numpy as np

from secateur.graph.coupling import Coupling
from secateur.graph.labels import Vector
from secateur.graph.program import Node, Ref, refs

WEIGHT_OPERANDS = {"mm": 1, "bmm": 1, "linear": 1, "addmm": 2, "baddbmm": 2, "mv": 1, "_grouped_mm": 1}
"""Products whose operand at this place, and the one before it, may be a weight."""


def reading(coupling: Coupling) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return for every label whether it names an index that a product of activations and weights sums over.

    Labels of a tensor's own dimension are asked for, not what they are united with.
    """
    program = coupling.program
    weights = {value.id for value in program.values if value.kind in ("parameter", "buffer")}
    read = np.zeros(len(coupling.labels), dtype=bool)
    for node in program.nodes:
        operands = set(refs(node.args))
        if operands and operands <= weights:
            weights.update(node.outputs)
            continue
        for vector in summed(coupling, node, weights):
            if vector is not None:
                read[vector] = True
    read[0] = False
    return read


def summed(coupling: Coupling, node: Node, weights: set[int]) -> list[Vector | None]:
    """Return the dimensions of `weights`, by the ids of their values, that a product sums over; else none."""
    if "convolution" in node.op:
        weight: Ref = node.args[1]
        transposed, groups = node.args[6], node.args[8]
        makes = transposed and groups > 1  # the groups are units: it makes what it reads
        if weight.id not in weights or makes:
            return []
        return [coupling.of(weight)[0 if transposed else 1]]
    if node.op not in WEIGHT_OPERANDS:
        return []
    right = WEIGHT_OPERANDS[node.op]
    found = []
    for at, dim in ((right - 1, -1), (right, -2 if node.op != "linear" else -1)):
        operand = node.args[at] if at >= 0 else None
        if isinstance(operand, Ref) and operand.id in weights:
            dims = coupling.of(operand)
            found.append(dims[dim] if len(dims) >= -dim else dims[-1])
    return found
