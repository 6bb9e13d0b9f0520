"""Reductions and running statistics: labels pass, and a statistic over a labelled dimension is recorded.

Where a statistic runs over a dimension that is cut, the smaller model computes it over fewer entries: it is exact
with respect to itself, but differs from the large model with the units zeroed.
"""

from __future__ import annotations

import numpy as np

from secateur.graph.coupling import Coupling, Dims, argument
from secateur.graph.program import Node
from secateur.graph.rules.pointwise import meet, pointwise
from secateur.graph.rules.table import operator, tensors


def _over(c: Coupling, node: Node) -> list[int]:
    """Return the dimensions a reduction runs over; none named means all."""
    count, dim = len(c.of(node.args[0])), argument(node, "dim", None)
    if dim is None or count == 0 or (isinstance(dim, list | tuple) and not dim):
        return list(range(count))
    return [int(at) % count for at in np.atleast_1d(dim)]


def _reduce(c: Coupling, node: Node) -> None:
    """Record what a statistic crosses, and pass on the other dimensions."""
    dims, over, keepdim = c.of(node.args[0]), _over(c, node), bool(argument(node, "keepdim", False))
    for at in over:
        c.crosses(node, dims[at])
    after = [None if at in over else vector for at, vector in enumerate(dims) if keepdim or at not in over]
    for which in range(len(node.outputs)):
        c.give(node, after, which)


@operator(
    "mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "aminmax", "all", "any", averages=True
)
@operator("sum", "nansum", "count_nonzero", "prod", "logsumexp", "linalg_vector_norm", "norm")
def statistic(c: Coupling, node: Node) -> None:
    """A sum, mean, variance, norm or extreme over dimensions."""
    _reduce(c, node)


@operator("max", "min", "median", "nanmedian", "mode", "kthvalue", averages=True, decides=True)
def indexed_statistic(c: Coupling, node: Node) -> None:
    """An entry of a dimension and its index, of all dimensions without one; of two tensors the larger entries."""
    if len(tensors(node.args)) > 1:
        pointwise(c, node)
        return
    if argument(node, "dim", None) is not None and _told(c, node):
        for at in _over(c, node):
            c.lock(node, c.of(node.args[0])[at], "the operator returns indices into it")
    _reduce(c, node)


def _told(c: Coupling, node: Node) -> bool:
    """Whether something uses the indices that a node returns behind its values."""
    return any(output in c.program.used for output in node.outputs[1:])


@operator("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp")
def running(c: Coupling, node: Node) -> None:
    """Shares of a whole, and running sums."""
    dims = c.of(node.args[0])
    if dims:
        c.crosses(node, dims[argument(node, "dim") % len(dims)])
    for which in range(len(node.outputs)):
        c.give(node, dims, which)


@operator("cummax", "cummin", decides=True)
def running_extreme(c: Coupling, node: Node) -> None:
    """The largest or smallest entry so far, and its index."""
    (order if _told(c, node) else running)(c, node)


@operator("sort", "topk", decides=True)
def in_order(c: Coupling, node: Node) -> None:
    """Entries in order, all or the first few, and their indices."""
    dims, over = list(c.of(node.args[0])), _over(c, node)
    if _told(c, node) or not over or (vector := dims[over[0]]) is None:
        order(c, node)
        return
    c.crosses(node, vector)
    dims[over[0]] = c.ranks_of(node, vector, c.shape(node)[over[0]])
    for which in range(len(node.outputs)):
        c.give(node, dims, which)


@operator("argmax", "argmin", decides=True)
def order(c: Coupling, node: Node) -> None:
    """What looks at the order of entries depends on the indices of that dimension."""
    dims, over = list(c.of(node.args[0])), _over(c, node)
    for at in over:
        c.lock(node, dims[at], "the operator ranks its entries")
        dims[at] = None
    for which in range(len(node.outputs)):
        same = len(c.shape(node, which)) == len(dims)
        after: Dims = [vector for at, vector in enumerate(dims) if same or at not in over]
        c.give(node, after, which)


@operator("mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss")
@operator("binary_cross_entropy", "binary_cross_entropy_with_logits", "dist")
def difference(c: Coupling, node: Node) -> None:
    """A number for each pair of entries, or their sum or mean."""
    shape = np.broadcast_shapes(*(c.value(ref).shape for ref in tensors((node.args, node.kwargs))))
    dims = meet(c, node, tensors((node.args, node.kwargs)), shape)
    if c.shape(node) == shape:
        c.give(node, dims)
        return
    for vector in dims:
        c.crosses(node, vector)
    c.give(node, [None] * len(c.shape(node)))


@operator("_cdist_forward")
def distances(c: Coupling, node: Node) -> None:
    """[…, P, M] and [… , R, M] → [… , P, R]: the norm of each difference of rows."""
    one, other = argument(node, "x1"), argument(node, "x2")
    (*_, rows, left), (*_, columns, right) = c.of(one), c.of(other)
    c.unite(node, left, right)
    c.crosses(node, left)
    lead = len(c.shape(node)) - 2
    batch: Dims = []
    for back in range(lead + 2, 2, -1):
        meeting = [
            c.of(each)[-back]
            for each in (one, other)
            if len(c.of(each)) >= back and c.value(each).shape[-back] > 1
        ]
        vector = meeting[0] if meeting else None
        batch.append(c.unite(node, vector, meeting[1]) if len(meeting) > 1 else vector)
    c.give(node, [*batch, rows, columns])


@operator("_pdist_forward")
def own_distances(c: Coupling, node: Node) -> None:
    """[N, M] → [N · (N − 1) / 2]: the norm of each difference of two rows."""
    rows, columns = c.of(node.args[0])
    c.lock(node, rows, "its pairs are numbered")
    c.crosses(node, columns)
    c.give(node, [None])


@operator("renorm", "embedding_renorm")
def renorm(c: Coupling, node: Node) -> None:
    """Rows scaled down to a largest norm, to which zeros add nothing."""
    c.give(node, c.of(node.args[0]))
