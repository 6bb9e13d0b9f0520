"""Which dimensions of a model's tensors are read: summed over when an activation meets the tensor; and which are made.

Of a unit's members, those that are read consume it; the others produce it, shift it or scale it. Those that a product
or a table makes activations of produce it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from functools import partial

import numpy as np

from secateur.graph.coupling import Coupling, argument
from secateur.graph.labels import Vector
from secateur.graph.operators import operator_of
from secateur.graph.program import Node, refs

Marks = np.ndarray[tuple[int], np.dtype[np.bool_]]
DimsOf = Callable[[Coupling, Node, set[int]], Iterable[Vector | None]]


def reading(coupling: Coupling) -> Marks:
    """Return for every label whether it names an index that a product of activations and weights sums over.

    Labels of a tensor's own dimension are asked for, not what they are united with.
    """
    return _marked(coupling, summed)


def making(coupling: Coupling) -> Marks:
    """Return for every label whether it names an index of a result that a weight or a table makes: its output.

    Labels of a tensor's own dimension are asked for, not what they are united with.
    """
    return _marked(coupling, _produced)


def _marked(coupling: Coupling, dims: DimsOf) -> Marks:
    """Return for every label whether it is among the `dims` of a node that does not compute with weights alone."""
    program = coupling.program
    weights = {value.id for value in program.values if value.kind in ("parameter", "buffer")}
    marks = np.zeros(len(coupling.labels), dtype=bool)
    for node in program.nodes:
        operands = set(refs(node.args))
        if operands and operands <= weights:
            weights.update(node.outputs)
            continue
        for vector in dims(coupling, node, weights):
            if vector is not None:
                marks[vector] = True
    return _at_sources(coupling, weights, marks)


def _at_sources(coupling: Coupling, weights: set[int], marked: Marks) -> Marks:
    """Mark what is marked of a tensor computed from weights of its shape, such as a masked one, in these too."""
    values = coupling.program.values
    for node in reversed(coupling.program.nodes):
        if operator_of(node).moves:  # what it moves keeps its labels
            continue
        for out, source in ((out, source) for out in node.outputs for source in node.operands):
            if {out, source} <= weights and values[out].shape == values[source].shape:
                _mark(marked, coupling.dims[out], coupling.dims[source])
    marked[0] = False
    return marked


def _mark(marked: Marks, of: list[Vector | None], own: list[Vector | None]) -> None:
    for computed, source in zip(of, own, strict=True):
        if computed is not None and source is not None:
            marked[source] |= marked[computed]


def _produced(coupling: Coupling, node: Node, weights: set[int]) -> list[Vector | None]:
    """Return the dimensions of `weights` that a product's result has, or the rows of a table; else none."""
    row = operator_of(node)
    if row.product is not None:
        given = partial(argument, node)
        dims = row.product.makes(given, lambda name: coupling.value(given(name)).shape)
        over = ((given(name), dim) for name, dim in dims)
        return [coupling.of(operand)[dim] for operand, dim in over if operand.id in weights]
    if row.mixes:
        return [
            vector for operand in node.operands if operand in weights for vector in coupling.dims[operand]
        ]
    return []


def summed(coupling: Coupling, node: Node, weights: set[int]) -> list[Vector | None]:
    """Return the dimensions of `weights`, by the ids of their values, that a product sums over; else none."""
    product = operator_of(node).product
    if product is None:
        return []
    over = ((argument(node, name), dim) for name, dim in product.over(partial(argument, node)))
    return [coupling.of(operand)[dim] for operand, dim in over if operand.id in weights]


def summed_activations(coupling: Coupling, node: Node, weights: Container[int]) -> list[Vector]:
    """Return the dimensions that a product sums over where none of its factors is one of `weights`; else none."""
    product = operator_of(node).product
    if product is None:
        return []
    factors = [argument(node, name).id for name in (product.left, product.right)]
    if any(factor in weights for factor in factors):
        return []
    over = ((argument(node, name), dim) for name, dim in product.over(partial(argument, node)))
    return [vector for operand, dim in over if (vector := coupling.of(operand)[dim]) is not None]
