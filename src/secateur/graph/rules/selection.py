"""Operators that pick entries by index: what they index must stay, the rest passes."""

from __future__ import annotations

from secateur.graph.coupling import Coupling, Dims, argument
from secateur.graph.labels import Vector
from secateur.graph.program import Node, Ref
from secateur.graph.rules.table import lock_all, rule


@rule("embedding")
def embedding(c: Coupling, node: Node) -> None:
    """Rows of a table."""
    table = c.of(node.args[0])
    c.lock(node, table[0], "it is looked up by index")
    c.give(node, [*c.of(node.args[1]), *table[1:]])


@rule("index", "_unsafe_index")
def index(c: Coupling, node: Node) -> None:
    """Advanced indexing: some dimensions are replaced by those of the indices."""
    source: Ref = node.args[0]
    dims, picks = list(c.of(source)), node.args[1]
    c.give(node, _indexed(c, node, dims, picks, c.shape(node)))


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def index_put(c: Coupling, node: Node) -> None:
    """Advanced indexing, written to: the written values line up with what the index leaves."""
    source: Ref = node.args[0]
    dims, picks, values = list(c.of(source)), node.args[1], node.args[2]
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


@rule("index_select", "index_copy", "index_add", "index_fill", "select_scatter", "slice_scatter")
def along_one(c: Coupling, node: Node) -> None:
    """Pick or write along one dimension; the others line up."""
    source: Ref = node.args[0]
    dims = list(c.of(source))
    if node.op.startswith(("select_s", "slice_s")):
        lock_all(c, node, "the code writes to a range of it")
        c.give(node, [None] * len(dims))
        return
    at = node.args[1] % len(dims)
    c.lock(node, dims[at], "it is picked from by index")
    dims[at] = None
    other = node.args[3] if len(node.args) > 3 else None
    if isinstance(other, Ref) and len(c.of(other)) == len(dims):
        for where, vector in enumerate(c.of(other)):
            if where == at:
                c.lock(node, vector, "it is written by index")
            else:
                dims[where] = c.unite(node, dims[where], vector)
    c.give(node, dims)


@rule("gather", "scatter", "scatter_add", "scatter_reduce", "take_along_dim")
def along_index(c: Coupling, node: Node) -> None:
    """Pick or write along one dimension by an index of the same rank; the others line up."""
    source, picks = node.args[0], node.args[2]
    if not isinstance(picks, Ref) or not c.of(source):
        lock_all(c, node, "it is picked from by index")
        return
    dims, at = list(c.of(source)), node.args[1] % len(c.of(source))
    others = [picks]
    values = argument(node, 3, "src")
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


@rule("_pack_padded_sequence")
def pack(c: Coupling, node: Node) -> None:
    """[batch, time, …] → [steps of all sequences, …], and how many sequences go on at each time."""
    batch, time, *rest = c.of(node.args[0])
    for vector in (batch, time):
        c.lock(node, vector, "it is packed by the lengths of the sequences")
    c.give(node, [None, *rest])
    c.give(node, [None], 1)


@rule("masked_select", "nonzero", "masked_scatter", "unique", "_unique2", "unique_dim", "histc", "bincount")
@rule("searchsorted", "one_hot", "linalg_inv", "cdist", "_cdist_forward", "sym_size", "multinomial")
def by_value(c: Coupling, node: Node) -> None:
    """Operators whose result depends on where entries are."""
    lock_all(c, node, "the operator looks at the place of each entry")


@rule("repeat_interleave")
def repeat_interleave(c: Coupling, node: Node) -> None:
    """Repeat entries of one dimension."""
    lock_all(c, node, "the code repeats its entries by a tensor of counts")
