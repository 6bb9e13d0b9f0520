"""Operators that pick entries by index: what they index must stay, the rest passes."""

from __future__ import annotations

from secateur.graph.coupling import Coupling, Dims, argument
from secateur.graph.labels import Vector
from secateur.graph.program import Node, Ref
from secateur.graph.rules.table import UnknownForm, lock_all, operator


@operator("embedding", mixes=True)
def embedding(c: Coupling, node: Node) -> None:
    """Rows of a table."""
    table = c.of(argument(node, "weight"))
    c.lock(node, table[0], "it is looked up by index")
    c.give(node, [*c.of(argument(node, "indices")), *table[1:]])


@operator("_embedding_bag", "_embedding_bag_forward_only", mixes=True)
def embedding_bag(c: Coupling, node: Node) -> None:
    """Rows of a table, summed, averaged or compared in bags; what is noted of the bags has no labels."""
    rows, columns = c.of(argument(node, "weight"))
    c.lock(node, rows, "it is looked up by index")
    for name in ("indices", "offsets", "per_sample_weights"):
        if (given := argument(node, name)) is not None:
            c.lock(node, c.of(given)[0], "its entries are told apart by offsets")
    for which in range(len(node.outputs)):
        c.give(node, [None, columns][: len(c.shape(node, which))], which)


@operator("index", "_unsafe_index")
def index(c: Coupling, node: Node) -> None:
    """Advanced indexing: some dimensions are replaced by those of the indices."""
    source: Ref = node.args[0]
    dims, picks = list(c.of(source)), argument(node, "indices")
    c.give(node, _indexed(c, node, dims, picks, c.shape(node)))


@operator("index_put", "_index_put_impl", "_unsafe_index_put")
def index_put(c: Coupling, node: Node) -> None:
    """Advanced indexing, written to: the written values line up with what the index leaves."""
    source: Ref = node.args[0]
    dims, picks, values = list(c.of(source)), argument(node, "indices"), argument(node, "values")
    left = [
        vector
        for at, vector in enumerate(dims)
        if at >= len(picks) or picks[at] is None  # indexed dimensions are gone
    ]
    shape = c.value(values).shape
    for back in range(1, len(shape) + 1):
        if shape[-back] > 1 and back <= len(left):
            left[-back] = c.unite(node, left[-back], c.of(values)[-back])
        elif shape[-back] > 1:
            c.lock(node, c.of(values)[-back], "it is written by index")
    for at in range(len(picks)):
        if picks[at] is not None:
            c.lock(node, dims[at], "it is written by index")
    c.give(node, dims)


def _indexed(
    c: Coupling, node: Node, dims: Dims, picks: list[Ref | None], shape: tuple[int, ...]
) -> list[Vector | None]:
    used = [at for at, pick in enumerate(picks) if pick is not None]
    for at in used:
        c.lock(node, dims[at], "it is picked from by index")
    rest = [vector for at, vector in enumerate(dims) if at not in used]
    new: list[Vector | None] = [None] * (len(shape) - len(rest))
    if any(len(c.of(pick)) for pick in picks if pick is not None):
        for pick in picks:
            for vector in c.of(pick) if pick is not None else ():
                c.lock(node, vector, "it indexes another tensor")
    together = used == list(range(used[0], used[-1] + 1)) if used else True
    front = used[0] if used and together else 0
    return [*rest[:front], *new, *rest[front:]]


@operator("select_scatter", "slice_scatter")
def write_range(c: Coupling, node: Node) -> None:
    """Write to a range of a dimension."""
    lock_all(c, node, "the code writes to a range of it")
    c.give(node, [None] * len(c.shape(node)))


@operator("index_select", "index_copy", "index_add", "index_reduce", "index_fill")
def along_one(c: Coupling, node: Node) -> None:
    """Pick or write along one dimension; the others line up."""
    dims = list(c.of(node.args[0]))
    at = argument(node, "dim") % max(1, len(dims))
    for vector in (*dims[at : at + 1], *c.of(argument(node, "index"))):
        c.lock(node, vector, "it is picked from by index")
    dims[at : at + 1] = [None] * len(dims[at : at + 1])
    other = argument(node, "source", None)
    for where, vector in enumerate(c.of(other) if isinstance(other, Ref) else ()):
        if where == at:
            c.lock(node, vector, "it is written by index")
        else:
            dims[where] = c.unite(node, dims[where], vector)
    c.give(node, dims)


@operator("gather", "scatter", "scatter_add", "scatter_reduce")
def along_index(c: Coupling, node: Node) -> None:
    """Pick or write along one dimension by an index of the same rank; the others line up."""
    source, picks = node.args[0], argument(node, "index")
    if not c.of(source):
        lock_all(c, node, "it is picked from by index")
        return
    dims, at = list(c.of(source)), argument(node, "dim") % len(c.of(source))
    if len(c.of(picks)) != len(dims):
        raise UnknownForm("its index has another number of dimensions")
    others = [picks]
    values = argument(node, "src", None)
    if isinstance(values, Ref) and len(c.of(values)) == len(dims):
        others.append(values)
    out: Dims = []
    for where, vector in enumerate(dims):
        for other in others:
            if where == at:
                c.lock(node, c.of(other)[where], "it is picked from by index")
            elif c.value(other).shape[where] == c.value(source).shape[where]:
                vector = c.unite(node, vector, c.of(other)[where])
            else:
                c.lock(node, vector, "only a part of it is picked by index")
                vector = None
        if where == at:
            c.lock(node, vector, "it is picked from by index")
            vector = None
        out.append(vector)
    c.give(node, out)


@operator("_pack_padded_sequence")
def pack(c: Coupling, node: Node) -> None:
    """[batch, time, …] → [steps of all sequences, …], and how many sequences go on at each time."""
    batch, time, *rest = c.of(argument(node, "input"))
    for vector in (batch, time):
        c.lock(node, vector, "it is packed by the lengths of the sequences")
    c.give(node, [None, *rest])
    c.give(node, [None], 1)


@operator("masked_select", "nonzero", "nonzero_static", "masked_scatter", "_unique", "_unique2", "unique_dim")
@operator("unique_consecutive", "unique_dim_consecutive", "histc", "histogram", "bincount")
@operator("searchsorted", "multinomial", "take", "put")
def by_value(c: Coupling, node: Node) -> None:
    """Operators whose result depends on where entries are; what is only noted for later keeps nothing."""
    if c.program.used.intersection(node.outputs):
        lock_all(c, node, "the operator looks at the place of each entry")


@operator("segment_reduce")
def segment_reduce(c: Coupling, node: Node) -> None:
    """Sums, means or extremes of runs of entries of one dimension; the others pass."""
    dims, at = list(c.of(argument(node, "data"))), argument(node, "axis")
    told = next(ref for name in ("lengths", "offsets") if (ref := argument(node, name)) is not None)
    for vector in (*dims[: at + 1], *c.of(told)):
        c.lock(node, vector, "runs of it are reduced")
    c.give(node, [*[None] * (at + 1), *dims[at + 1 :]])


@operator("repeat_interleave")
def repeat_interleave(c: Coupling, node: Node) -> None:
    """Repeat entries of one dimension."""
    lock_all(c, node, "the code repeats its entries by a tensor of counts")
