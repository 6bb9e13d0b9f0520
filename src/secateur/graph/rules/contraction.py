"""Operators that sum over products: what is summed over is united, the rest is passed on."""

from __future__ import annotations

from functools import partial

import numpy as np

from secateur.graph.coupling import Coupling, Dims, Need, Rule, argument
from secateur.graph.labels import KERNEL, Lock, Vector
from secateur.graph.program import Call, Node, Ref
from secateur.graph.rules.movement import collapse, units_along
from secateur.graph.rules.table import UnknownForm, operator
from secateur.measure.products import PRODUCTS, Convolution, MatrixProduct


def summed(c: Coupling, node: Node, left: Vector | None, right: Vector | None) -> None:
    """Unite the two dimensions a contraction sums over."""
    c.unite(node, left, right, "it is multiplied with a dimension that must stay")


def side_by_side(c: Coupling, node: Node, left: Vector | None, right: Vector | None) -> Vector | None:
    """Unite the dimensions along which products run side by side: the heads of attention."""
    batch = c.unite(node, left, right)
    if batch is not None:
        c.heads.append(batch)
    return batch


def matrix_product(product: MatrixProduct) -> Rule:
    """Return the rule of a matrix product, which its equation says."""

    def multiply(c: Coupling, node: Node) -> None:
        """Unite what is summed over and what runs side by side; pass on the rest, and add the addend."""
        given, matrix = c.of(argument(node, product.left)), c.of(argument(node, product.right))
        left, right, result = product.letters
        front = len(given) - (len(left) - 1) if left.startswith("…") else 0
        rest = left.removeprefix("…")
        if len(given) - front != len(rest) or len(matrix) != len(right):
            raise UnknownForm(f"it multiplies tensors of {len(given)} and {len(matrix)} dimensions")
        at = dict(zip(rest, given[front:], strict=True))
        for letter, vector in zip(right, matrix, strict=True):
            if letter in product.summed:
                summed(c, node, at[letter], vector)
            elif letter in rest:
                at[letter] = side_by_side(c, node, at[letter], vector)
            elif letter in result:
                at[letter] = vector
            else:
                c.lock(node, vector, "tokens are sent to experts by their number")
        out = [*given[:front], *(at[letter] for letter in result.removeprefix("…"))]
        addend = None if product.addend is None else argument(node, product.addend)
        if addend is not None:
            _add(c, node, addend, out)
        c.give(node, out)

    return multiply


for _name, _product in PRODUCTS.items():
    if isinstance(_product, MatrixProduct):
        operator(_name, product=_product)(matrix_product(_product))


for _name, _product in {
    "_sparse_addmm": MatrixProduct("ik,kj->ij", "mat1", "mat2", "self"),
    "_sparse_mm_reduce_impl": MatrixProduct("ik,kj->ij", "self", "other"),
    "_sparse_sparse_matmul": MatrixProduct("ik,kj->ij", "self", "other"),
    "hspmm": MatrixProduct("ik,kj->ij", "mat1", "mat2"),
}.items():
    operator(_name)(matrix_product(_product))  # of entries that are there: no count of them is known


@operator("_trilinear", mixes=True)
def trilinear(c: Coupling, node: Node) -> None:
    """The product of three tensors, summed: dimensions line up after each has got its missing ones."""
    factors = [argument(node, "i1"), argument(node, "i2"), argument(node, "i3")]
    expands = [argument(node, "expand1"), argument(node, "expand2"), argument(node, "expand3")]
    sums = argument(node, "sumdim")
    sizes = [c.value(factor).shape for factor in factors]
    lined: list[list[Vector | None]] = []
    for at in range(3):
        dims = list(c.of(factors[at]))
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


def convolution(product: Convolution) -> Rule:
    """Return the rule of a convolution: weights [O, I/g, …] (transposed: [I, O/g, …]) over an input [N, I, …]."""

    def convolve(c: Coupling, node: Node) -> None:
        """Unite the channels that are summed over, pass on those made, lock the rest."""
        given = partial(argument, node)
        source, weight = c.of(given(product.left)), c.of(given(product.right))
        transposed, groups = product.is_transposed(given), given("groups")
        for spatial in weight[2:]:
            c.lock(node, spatial, KERNEL)
        for spatial in source[2:]:
            c.lock(node, spatial, "a kernel slides over it")
        if groups == 1:
            inner, out = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
            summed(c, node, source[1], inner)
        else:
            out = (_grouped_transposed if transposed else _grouped)(c, node, source[1], weight, groups)
        bias = None if product.addend is None else given(product.addend)
        if bias is not None and out is not None:
            out = c.unite(node, out, c.of(bias)[0])
        elif bias is not None:
            c.lock(node, c.of(bias)[0], "it is added to a dimension that must stay")
        c.give(node, [source[0], out, *[None] * (len(c.shape(node)) - 2)])

    return convolve


def deformable(product: Convolution) -> Rule:
    """Return the rule of a convolution that looks at shifted places, those of each offset group in its own."""
    convolve = convolution(product)

    def shifted(c: Coupling, node: Node) -> None:
        source, count = c.of(argument(node, "input")), argument(node, "offset_groups")
        if count > 1 and source[1] is not None:
            collapse(c, node, c.labels.find(source[1]).reshape(count, -1), 1)
        for name in ("offset", "mask"):
            batch, *places = c.of(argument(node, name))
            c.unite(node, source[0], batch)
            for vector in places:
                c.lock(node, vector, "it says where to look")
        convolve(c, node)

    return shifted


for _name, _product in PRODUCTS.items():
    if isinstance(_product, Convolution):
        _rule = deformable if _product.shifted else convolution
        operator(_name, product=_product)(_rule(_product))


def _grouped(c: Coupling, node: Node, source: Vector | None, weight: Dims, groups: int) -> Vector | None:
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
    c: Coupling, node: Node, source: Vector | None, weight: Dims, groups: int
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


def attention(c: Coupling, number: int, call: Call) -> None:
    """Attention without an explicit scale divides by √d: the features of a head must stay."""
    if call.kwargs.get("scale") is None and len(call.args) < 7:
        lock = Lock("attention divides by the square root of its size", f"{call.name} ({call.source})")
        for at, name in enumerate(("query", "key")):
            ref = call.args[at] if at < len(call.args) else call.kwargs.get(name)
            vector = c.of(ref)[-1] if isinstance(ref, Ref) else None
            if vector is not None:
                c.labels.lock(vector, lock)
