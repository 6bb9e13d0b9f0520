"""Operators that move entries: labels move with them.

Where a reshape splits a labelled dimension into several (heads and their features, groups and their channels), one
of the parts becomes the unit, and labels that share an index of it are united; see `unit_of`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from secateur.graph.coupling import Coupling, Dims, Need, argument, varies
from secateur.graph.labels import FIXED, Vector
from secateur.graph.program import Node, Ref
from secateur.graph.rules.pointwise import meet
from secateur.graph.rules.table import Effect, UnknownForm, operator, tensors
from secateur.graph.sizes import Attribute, TracedSize, leaves

reshaped = partial(operator, effect=Effect.RESHAPED)
transposed = partial(operator, effect=Effect.TRANSPOSED)
moved = partial(operator, effect=Effect.MOVED)


def factors(old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Split a reshape into the smallest runs of old and new dimensions with equal products.

    >>> list(factors((2, 12, 5), (2, 3, 4, 5)))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [], []
        a = b = 1
        if i < len(old):
            left, a, i = [i], old[i], i + 1
        if j < len(new):
            right, b, j = [j], new[j], j + 1
        while a != b:
            if a < b:
                left.append(i)
                a, i = a * old[i], i + 1
            else:
                right.append(j)
                b, j = b * new[j], j + 1
        yield left, right


def reshape(c: Coupling, node: Node, dims: Dims, old: tuple[int, ...], new: tuple[int, ...]) -> Dims:
    """Return the vectors after a reshape from `old` to `new` sizes."""
    after: Dims = [None] * len(new)
    if math.prod(old) == 0:
        return after
    for left, right in factors(old, new):
        labelled = [dim for dim in left if dims[dim] is not None]
        if len(labelled) > 1:
            labelled = _one_of(c, node, dims, labelled)
        if not labelled:
            continue
        dim = labelled[0]
        vector = dims[dim]
        assert vector is not None
        wide = [dim for dim in left if old[dim] > 1]
        tall = [dim for dim in right if new[dim] > 1]
        if len(wide) == len(tall) == 1:
            after[tall[0]] = vector
            continue
        around = [old[at] if at == dim else 1 for at in wide]
        spread = np.broadcast_to(vector.reshape(around), [old[at] for at in wide])
        labels = c.labels.find(spread).reshape([new[at] for at in tall])
        along = varies(labels)
        if not along:
            c.lock(node, vector, "a reshape hides it among other indices")
            continue
        at = along[0] if len(along) == 1 else unit_of(c, node, [tall[a] for a in along], new, along)
        after[tall[at]] = united = collapse(c, node, labels, at)
        if len(along) > 1:
            c.picked(node, united, len(along))
    return after


def collapse(c: Coupling, node: Node, labels: Vector, keep: int) -> Vector:
    """Unite all labels that share an index of dimension `keep`; return one for each index."""
    rows = np.moveaxis(labels, keep, 0).reshape(labels.shape[keep], -1)
    if rows.shape[1] > 1 and not (rows == rows[:, :1]).all():
        c.unite(node, rows[:, 1:].ravel(), np.repeat(rows[:, 0], rows.shape[1] - 1))
    return np.ascontiguousarray(rows[:, 0])


def units_along(c: Coupling, labels: Vector, keep: int) -> int:
    """Return how many units would be left if labels that share an index of dimension `keep` were united."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.moveaxis(c.labels.find(labels), keep, 0).reshape(labels.shape[keep], -1)
    names, numbers = np.unique(rows, return_inverse=True)
    owner = np.repeat(np.arange(len(rows)), rows.shape[1])
    count = len(rows) + len(names)
    links = coo_array((np.ones(rows.size), (owner, len(rows) + numbers.ravel())), shape=(count, count))
    return int(connected_components(links, directed=False, return_labels=False))


def unit_of(c: Coupling, node: Node, parts: list[int], new: tuple[int, ...], along: list[int]) -> int:
    """Choose which part of a split dimension is the unit: the one the code can vary, else the outermost.

    A part whose size is a literal (the 3 of a fused query-key-value projection, the groups of a shuffle) is no
    unit where another part's size is an attribute or follows from the others.
    """
    sizes = _written_sizes(c, node, new)

    def freedom(part: int) -> int:
        size = sizes[part] if sizes else 1
        if size == -1:
            return 2
        if type(size) is not TracedSize:
            return 1 if sizes is None else 0
        return 2 if any(isinstance(leaf, Attribute) for leaf, _ in leaves(size)) else 1

    ordered = sorted(range(len(parts)), key=lambda at: (-freedom(parts[at]), at))
    return along[ordered[c.pick(node, len(parts))]]


def _written_sizes(c: Coupling, node: Node, new: tuple[int, ...]) -> list[int] | None:
    """Return the sizes as the code wrote them in the call, one for each new dimension."""
    if node.call is None:
        return None
    args = c.program.calls[node.call].args
    for candidate in (args[1:], *args[1:]):
        if (
            isinstance(candidate, list | tuple)
            and len(candidate) == len(new)
            and all(
                isinstance(size, int) and size in (-1, known)
                for size, known in zip(candidate, new, strict=True)
            )
        ):
            return list(candidate)
    return None


def _one_of(c: Coupling, node: Node, dims: Dims, labelled: list[int]) -> list[int]:
    """Keep one of the labelled dimensions a reshape merges, the outermost first; the others must stay."""
    free = [dim for dim in labelled if c.labels.free(dims[dim])]  # type: ignore[arg-type]
    chosen = [free[c.pick(node, len(free))]] if free else []
    if len(free) > 1:
        c.picked(node, dims[chosen[0]], len(free))  # type: ignore[arg-type]
    for dim in labelled:
        if dim not in chosen:
            c.lock(node, dims[dim], "a reshape merges it with another dimension that may be cut")
    return chosen


@reshaped("view", "_unsafe_view", "_reshape_alias")
def view(c: Coupling, node: Node) -> None:
    """Split and merge dimensions."""
    source: Ref = node.args[0]
    old, new = c.value(source).shape, c.shape(node)
    if math.prod(old) != math.prod(new):
        raise UnknownForm("it reads the memory as numbers of another width")
    c.give(node, reshape(c, node, c.of(source), old, new))


@transposed("permute")
def permute(c: Coupling, node: Node) -> None:
    """Reorder dimensions."""
    dims = c.of(node.args[0])
    c.give(node, [dims[at] for at in argument(node, "dims")])


@transposed("transpose")
def transpose(c: Coupling, node: Node) -> None:
    """Swap two dimensions."""
    dims = list(c.of(node.args[0]))
    if dims:
        a, b = argument(node, "dim0"), argument(node, "dim1")
        dims[a], dims[b] = dims[b], dims[a]
    c.give(node, dims)


@transposed("t")
def t(c: Coupling, node: Node) -> None:
    """Swap the two dimensions of a matrix."""
    c.give(node, c.of(node.args[0])[::-1])


@moved("expand")
def expand(c: Coupling, node: Node) -> None:
    """Repeat dimensions of one index: all their entries are equal, so their size follows what they meet."""
    source: Ref = node.args[0]
    c.give(node, meet(c, node, [source], c.shape(node)))


@moved("unsqueeze")
def unsqueeze(c: Coupling, node: Node) -> None:
    """Insert a dimension of one index."""
    dims = list(c.of(node.args[0]))
    dims.insert(argument(node, "dim") % (len(dims) + 1), None)
    c.give(node, dims)


@moved("squeeze")
def squeeze(c: Coupling, node: Node) -> None:
    """Drop dimensions of one index."""
    source: Ref = node.args[0]
    shape, dims = c.value(source).shape, c.of(source)
    drop = argument(node, "dim", None)
    chosen = range(len(shape)) if drop is None else np.atleast_1d(drop) % max(1, len(shape))
    gone = {int(dim) for dim in chosen if shape[int(dim)] == 1} if shape else set()
    c.give(node, [vector for at, vector in enumerate(dims) if at not in gone])


@moved("select")
def select(c: Coupling, node: Node) -> None:
    """Take one index of a dimension."""
    dims = list(c.of(node.args[0]))
    at = argument(node, "dim") % len(dims)
    c.lock(node, dims.pop(at), "the code takes one index of it by number")
    c.give(node, dims)


@moved("unbind")
def unbind(c: Coupling, node: Node) -> None:
    """Take a dimension apart."""
    dims = list(c.of(node.args[0]))
    c.lock(node, dims.pop(argument(node, "dim")), "the code takes it apart index by index")
    for which in range(len(node.outputs)):
        c.give(node, dims, which)


@moved("slice")
def slice_(c: Coupling, node: Node) -> None:
    """Take a range of a dimension."""
    source: Ref = node.args[0]
    dims, shape = list(c.of(source)), c.value(source).shape
    dim = argument(node, "dim") % len(dims)
    size, vector = shape[dim], dims[dim]
    start, stop, _ = slice(argument(node, "start"), argument(node, "end")).indices(size)
    step = argument(node, "step")
    if vector is not None:
        if step != 1:
            c.lock(node, vector, "the code takes every few of its indices")
        part = vector[start:stop:step]
        if part.size < vector.size:
            c.parts.append((vector, c.lock_for(node, "these example inputs reach only a part of it")))
        if part.size == 1:
            c.lock(node, part, "the code takes one index of it by number")
        if start > 0:
            c.need(node, Need(start, vector[:start]), Need(start - size, vector[start:], -1))
        if stop < size:
            c.need(node, Need(stop, vector[:stop]), Need(stop - size, vector[stop:], -1))
        dims[dim] = part
    c.give(node, dims)


def _ranges(c: Coupling, node: Node) -> list[Vector]:
    """Cut a dimension into ranges; return their labels, none where it has none."""
    source: Ref = node.args[0]
    dim = argument(node, "dim") % len(c.of(source))
    vector, start = c.of(source)[dim], 0
    parts: list[Vector] = []
    for which in range(len(node.outputs)):
        dims = list(c.of(source))
        size = c.shape(node, which)[dim]
        if vector is not None:
            parts.append(vector[start : start + size])
            if size == 1:
                c.lock(node, parts[-1], "the code takes one index of it by number")
            dims[dim] = parts[-1]
            start += size
        c.give(node, dims, which)
    return parts


@moved("split_with_sizes", "unsafe_split_with_sizes")
def split_with_sizes(c: Coupling, node: Node) -> None:
    """Cut a dimension into ranges whose sizes the code gives."""
    _ranges(c, node)


@moved("split", "unsafe_split")
def split(c: Coupling, node: Node) -> None:
    """Cut a dimension into ranges whose size the code computes as a fraction: they stay equally large."""
    if parts := _ranges(c, node):
        align(c, node, parts)


def align(c: Coupling, node: Node, parts: list[Vector]) -> None:
    """Unite parts index by index, so that they stay equally large; lock them where they are not."""
    for part in parts[1:]:
        if part.size == parts[0].size:
            c.unite(node, parts[0], part)
        else:
            for each in (parts[0], part):
                c.lock(node, each, "the code splits it into parts of unequal size")


@moved("cat")
def cat(c: Coupling, node: Node) -> None:
    """Join tensors along a dimension."""
    shape = c.shape(node)
    pieces = [ref for ref in tensors(argument(node, "tensors")) if len(c.value(ref).shape) == len(shape)]
    dim = argument(node, "dim") % len(shape)
    dims: Dims = []
    for at in range(len(shape)):
        if at != dim:
            vector = c.of(pieces[0])[at]
            for ref in pieces[1:]:
                vector = c.unite(node, vector, c.of(ref)[at])
            dims.append(vector)
            continue
        vectors = [c.of(ref)[at] for ref in pieces]
        if all(vector is None for vector in vectors):
            dims.append(None)
            continue
        sizes = [c.value(ref).shape[at] for ref in pieces]
        dims.append(
            np.concatenate(
                [
                    np.full(size, FIXED, dtype=np.int64) if vector is None else vector
                    for vector, size in zip(vectors, sizes, strict=True)
                ]
            )
        )
    c.give(node, dims)


@operator("glu")
def glu(c: Coupling, node: Node) -> None:
    """First half of a dimension, gated by the second."""
    dims = list(c.of(node.args[0]))
    at = argument(node, "dim") % len(dims)
    vector = dims[at]
    if vector is not None:
        half = vector.size // 2
        align(c, node, [vector[:half], vector[half:]])
        dims[at] = vector[:half]
    c.give(node, dims)


@moved("stack")
def stack(c: Coupling, node: Node) -> None:
    """Join tensors along a new dimension."""
    pieces = tensors(argument(node, "tensors"))
    dims = meet(c, node, pieces, c.value(pieces[0]).shape)
    dims.insert(argument(node, "dim") % (len(dims) + 1), None)
    c.give(node, dims)


@moved("flip")
def flip(c: Coupling, node: Node) -> None:
    """Turn dimensions around."""
    dims = list(c.of(node.args[0]))
    for at in argument(node, "dims"):
        vector = dims[at]
        dims[at] = None if vector is None else vector[::-1].copy()
    c.give(node, dims)


@moved("roll")
def roll(c: Coupling, node: Node) -> None:
    """Shift dimensions around: by a number of indices that the code fixes."""
    dims = list(c.of(node.args[0]))
    rolled = argument(node, "dims") or range(len(dims))
    for at in rolled:
        c.lock(node, dims[at], "the code shifts it by a fixed number of indices")
        dims[at] = None
    c.give(node, dims)


@moved("repeat")
def repeat(c: Coupling, node: Node) -> None:
    """Repeat whole dimensions."""
    source: Ref = node.args[0]
    times = argument(node, "repeats")
    new = len(times) - len(c.of(source))
    dims: Dims = [*[None] * new, *c.of(source)]
    old = (1,) * new + c.value(source).shape
    after: Dims = []
    for vector, size, count in zip(dims, old, times, strict=True):
        if size == 1 and count > 1:
            after.append(c.labels.fresh(count))
        else:
            after.append(None if vector is None else np.tile(vector, count))
    c.give(node, after)


@operator("constant_pad_nd")
def pad(c: Coupling, node: Node) -> None:
    """Add constants around dimensions: their number follows what they meet."""
    source: Ref = node.args[0]
    dims, amounts = list(c.of(source)), argument(node, "pad")
    for back in range(len(amounts) // 2):
        before, after = amounts[2 * back : 2 * back + 2]
        at = len(dims) - 1 - back
        vector = dims[at]
        if vector is None or not (before or after):
            continue
        if before < 0 or after < 0:
            c.lock(node, vector, "the code crops it by a fixed number of indices")
            dims[at] = None
            continue
        head, tail = c.labels.fresh(before), c.labels.fresh(after)
        for amount, labels in ((before, head), (after, tail)):
            if amount:
                c.need(node, Need(amount, labels))
        dims[at] = np.concatenate([head, vector, tail])
    c.give(node, dims)


@moved("pixel_shuffle")
def pixel_shuffle(c: Coupling, node: Node) -> None:
    """[C·r², H, W] → [C, H·r, W·r]: the r² channels of an output channel are one unit."""
    dims = list(c.of(node.args[0]))
    vector = dims[-3]
    if vector is not None:
        dims[-3] = collapse(
            c, node, c.labels.find(vector).reshape(-1, argument(node, "upscale_factor") ** 2), 0
        )
    for at in (-1, -2):
        c.lock(node, dims[at], "it is a spatial dimension")
        dims[at] = None
    c.give(node, dims)


@moved("pixel_unshuffle")
def pixel_unshuffle(c: Coupling, node: Node) -> None:
    """[C, H·r, W·r] → [C·r², H, W]."""
    dims = list(c.of(node.args[0]))
    vector = dims[-3]
    dims[-3] = None if vector is None else np.repeat(vector, argument(node, "downscale_factor") ** 2)
    for at in (-1, -2):
        c.lock(node, dims[at], "it is a spatial dimension")
        dims[at] = None
    c.give(node, dims)


@moved("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(c: Coupling, node: Node) -> None:
    """[g · C/g] → [C/g · g]: channels at the same place of every group are one unit."""
    dims = list(c.of(node.args[0]))
    vector, groups = dims[1], argument(node, "groups")
    if vector is not None:
        columns = collapse(c, node, c.labels.find(vector).reshape(groups, -1), 1)
        dims[1] = np.repeat(columns, groups)
    c.give(node, dims)


@moved("view_as_real")
def view_as_real(c: Coupling, node: Node) -> None:
    """Add a dimension for real and imaginary part."""
    c.give(node, [*c.of(node.args[0]), None])


@moved("view_as_complex")
def view_as_complex(c: Coupling, node: Node) -> None:
    """Drop the dimension for real and imaginary part."""
    *dims, pair = c.of(node.args[0])
    c.lock(node, pair, "it holds real and imaginary parts")
    c.give(node, dims)


@moved("diagonal")
def diagonal(c: Coupling, node: Node) -> None:
    """Two dimensions looked at where their indices are the same, as a new last one."""
    dims = list(c.of(node.args[0]))
    pair = {argument(node, "dim1") % len(dims), argument(node, "dim2") % len(dims)}
    for at in pair:
        c.lock(node, dims[at], "the operator depends on its indices")
    c.give(node, [*(vector for at, vector in enumerate(dims) if at not in pair), None])


@moved("diag_embed")
def diag_embed(c: Coupling, node: Node) -> None:
    """The last dimension as the diagonal of two new ones."""
    *dims, vector = c.of(node.args[0])
    c.lock(node, vector, "the operator depends on its indices")
    pair = {at % (len(dims) + 2) for at in (argument(node, "dim1"), argument(node, "dim2"))}
    rest = iter(dims)
    c.give(node, [None if at in pair else next(rest) for at in range(len(dims) + 2)])


@moved("rot90")
def rot90(c: Coupling, node: Node) -> None:
    """Turn two dimensions, which are spatial."""
    dims = list(c.of(node.args[0]))
    for at in argument(node, "dims"):
        c.lock(node, dims[at], "it is a spatial dimension")
        dims[at] = None
    c.give(node, dims)


@moved("tril", "triu")
def triangle(c: Coupling, node: Node) -> None:
    """Look at the last two dimensions by their indices."""
    *dims, rows, columns = c.of(node.args[0])
    for vector in (rows, columns):
        c.lock(node, vector, "the operator depends on its indices")
    c.give(node, [*dims, None, None])


@moved("unfold")
def unfold(c: Coupling, node: Node) -> None:
    """Sliding windows over one dimension."""
    dims = list(c.of(node.args[0]))
    if dims:
        at = argument(node, "dimension") % len(dims)
        c.lock(node, dims[at], "the operator slides a window over it")
        dims[at] = None
    c.give(node, [*dims, None])


@moved("as_strided")
def as_strided(c: Coupling, node: Node) -> None:
    """Look at memory by its layout."""
    source: Ref = node.args[0]
    if c.value(source).shape == c.shape(node):
        c.give(node, c.of(source))
        return
    for vector in c.of(source):
        c.lock(node, vector, "the code reads its memory by strides")
    c.give(node, [None] * len(c.shape(node)))
