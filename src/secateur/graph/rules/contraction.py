"""Operators that sum over products: what is summed over is united, the rest is passed on."""

from __future__ import annotations

import numpy as np

from secateur.graph.coupling import Coupling, Need, argument
from secateur.graph.labels import KERNEL, Lock, Vector
from secateur.graph.program import Call, Node, Ref
from secateur.graph.rules.movement import collapse, units_along
from secateur.graph.rules.table import call_rule, lock_all, rule


def summed(c: Coupling, node: Node, left: Vector | None, right: Vector | None) -> None:
    """Unite the two dimensions a contraction sums over."""
    c.unite(node, left, right, "it is multiplied with a dimension that must stay")


def _parallel(c: Coupling, node: Node, left: Vector | None, right: Vector | None) -> Vector | None:
    """Unite the dimensions along which products run side by side: the heads of attention."""
    batch = c.unite(node, left, right)
    if batch is not None:
        c.heads.append(batch)
    return batch


@rule("mm", "_int_mm", "matmul_2d")
def mm(c: Coupling, node: Node) -> None:
    """[i, k] × [k, j] → [i, j]."""
    left, right = c.of(node.args[0]), c.of(node.args[1])
    summed(c, node, left[1], right[0])
    c.give(node, [left[0], right[1]])


@rule("addmm")
def addmm(c: Coupling, node: Node) -> None:
    """bias + [i, k] × [k, j]."""
    bias: Ref = node.args[0]
    left, right = c.of(node.args[1]), c.of(node.args[2])
    summed(c, node, left[1], right[0])
    out = [left[0], right[1]]
    _add(c, node, bias, out)
    c.give(node, out)


@rule("bmm")
def bmm(c: Coupling, node: Node) -> None:
    """[b, i, k] × [b, k, j] → [b, i, j]."""
    left, right = c.of(node.args[0]), c.of(node.args[1])
    batch = _parallel(c, node, left[0], right[0])
    summed(c, node, left[2], right[1])
    c.give(node, [batch, left[1], right[2]])


@rule("_grouped_mm", "_scaled_grouped_mm")
def grouped_mm(c: Coupling, node: Node) -> None:
    """Rows of [t, k], each times the matrix of its expert in [e, k, j] → [t, j]."""
    left, right = c.of(node.args[0]), c.of(node.args[1])
    if len(left) != 2 or len(right) != 3:
        lock_all(c, node, "its form of a grouped product is not known")
        return
    c.lock(node, right[0], "tokens are sent to experts by their number")
    summed(c, node, left[1], right[1])
    c.give(node, [left[0], right[2]])


@rule("baddbmm")
def baddbmm(c: Coupling, node: Node) -> None:
    """Bias + [b, i, k] × [b, k, j]."""
    bias: Ref = node.args[0]
    left, right = c.of(node.args[1]), c.of(node.args[2])
    batch = _parallel(c, node, left[0], right[0])
    summed(c, node, left[2], right[1])
    out = [batch, left[1], right[2]]
    if argument(node, 3, "beta", 1) != 0:
        _add(c, node, bias, out)
    c.give(node, out)


@rule("mv")
def mv(c: Coupling, node: Node) -> None:
    """[i, k] × [k] → [i]."""
    left, right = c.of(node.args[0]), c.of(node.args[1])
    summed(c, node, left[1], right[0])
    c.give(node, [left[0]])


@rule("dot", "vdot")
def dot(c: Coupling, node: Node) -> None:
    """[k] × [k] → a number."""
    summed(c, node, c.of(node.args[0])[0], c.of(node.args[1])[0])
    c.give(node, [])


@rule("linear")
def linear(c: Coupling, node: Node) -> None:
    """[…, k] × [j, k]ᵀ + bias."""
    source, weight = c.of(node.args[0]), c.of(node.args[1])
    summed(c, node, source[-1], weight[1])
    out = [*source[:-1], weight[0]]
    bias = argument(node, 2, "bias")
    if bias is not None:
        _add(c, node, bias, out)
    c.give(node, out)


@rule("_trilinear")
def trilinear(c: Coupling, node: Node) -> None:
    """The product of three tensors, summed: dimensions line up after each has got its missing ones."""
    sizes = [c.value(node.args[at]).shape for at in range(3)]
    expands, sums = node.args[3:6], node.args[6]
    lined: list[list[Vector | None]] = []
    for at in range(3):
        dims = list(c.of(node.args[at]))
        shape = list(sizes[at])
        for where in sorted(expands[at]):
            dims.insert(where, None)
            shape.insert(where, 1)
        lined.append([v if s > 1 else None for v, s in zip(dims, shape, strict=True)])
        sizes[at] = tuple(shape)
    out: list[Vector | None] = []
    for dim in range(len(lined[0])):
        vectors = [lined[at][dim] for at in range(3) if sizes[at][dim] > 1]
        vector = vectors[0] if vectors else None
        for other in vectors[1:]:
            vector = c.unite(node, vector, other)
        if dim not in sums:
            out.append(vector)
    c.give(node, out)


@rule("convolution", "_convolution", "mkldnn_convolution", "convolution_overrideable", "cudnn_convolution")
def convolution(c: Coupling, node: Node) -> None:
    """Weights [O, I/g, …] (transposed: [I, O/g, …]) over an input [N, I, …]."""
    source, weight = c.of(node.args[0]), c.of(node.args[1])
    transposed, groups = node.args[6], node.args[8]
    for spatial in weight[2:]:
        c.lock(node, spatial, KERNEL)
    for spatial in source[2:]:
        c.lock(node, spatial, "a kernel slides over it")
    if groups == 1:
        inner, outer = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
        summed(c, node, source[1], inner)
        out = outer
    else:
        out = (_grouped_transposed if transposed else _grouped)(c, node, source[1], weight, groups)
    bias = argument(node, 2, "bias")
    if bias is not None and out is not None:
        out = c.unite(node, out, c.of(bias)[0])
    elif bias is not None:
        c.lock(node, c.of(bias)[0], "it is added to a dimension that must stay")
    c.give(node, [source[0], out, *[None] * (len(c.shape(node)) - 2)])


def _grouped(
    c: Coupling, node: Node, source: Vector | None, weight: list[Vector | None], groups: int
) -> Vector | None:
    """Grouped convolution: units are whole groups, or the same place in every group, whichever are more."""
    rows, columns = weight[0], weight[1]
    if source is None or rows is None:
        for vector in (source, rows, columns):
            c.lock(node, vector, "it belongs to a grouped convolution with a side that must stay")
        return None
    inner = c.labels.find(source).reshape(groups, -1)
    outer = c.labels.find(rows).reshape(groups, -1)
    places = inner.shape[1] > 1 and columns is not None
    if places and units_along(c, inner, 1) >= units_along(c, inner, 0):
        assert columns is not None
        c.unite(node, collapse(c, node, inner, 1), columns)
        return np.tile(collapse(c, node, outer, 1), groups) if outer.shape[1] > 1 else _whole(c, node, rows)
    c.lock(node, columns, "it belongs to a grouped convolution whose groups are the units")
    group = collapse(c, node, inner, 0)
    c.unite(node, group, collapse(c, node, outer, 0))
    c.need(node, Need(groups, group))
    return rows


def _grouped_transposed(
    c: Coupling, node: Node, source: Vector | None, weight: list[Vector | None], groups: int
) -> Vector | None:
    """Grouped transposed convolution, weights [I, O/g, …]: units are whole groups."""
    rows, columns = weight[0], weight[1]
    c.lock(node, columns, "it belongs to a grouped transposed convolution")
    if source is None or rows is None:
        c.unite(node, source, rows)
        return None
    c.unite(node, source, rows)
    group = collapse(c, node, c.labels.find(source).reshape(groups, -1), 0)
    c.need(node, Need(groups, group))
    return np.repeat(group, c.shape(node)[1] // groups)


def _whole(c: Coupling, node: Node, vector: Vector) -> Vector | None:
    c.lock(node, vector, "a grouped convolution makes one output of each group")
    return None


def _add(c: Coupling, node: Node, bias: Ref, out: list[Vector | None]) -> None:
    """Unite a bias with the trailing dimensions it is added to."""
    shape, dims = c.value(bias).shape, c.of(bias)
    for back in range(1, len(shape) + 1):
        if shape[-back] > 1:
            out[-back] = c.unite(node, out[-back], dims[-back])


@call_rule("torch.nn.functional.scaled_dot_product_attention", "torch._C._nn.scaled_dot_product_attention")
def attention(c: Coupling, number: int, call: Call) -> None:
    """Attention without an explicit scale divides by √d: the features of a head must stay."""
    if call.kwargs.get("scale") is None and len(call.args) < 7:
        lock = Lock("attention divides by the square root of its size", f"{call.name} ({call.source})")
        for ref in call.args[:2]:
            vector = c.of(ref)[-1] if isinstance(ref, Ref) else None
            if vector is not None:
                c.labels.lock(vector, lock)
