"""Reductions and running statistics: labels pass, and a statistic over a labelled dimension is recorded.

Where a statistic runs over a dimension that is cut, the smaller model computes it over fewer entries: it is exact
with respect to itself, but differs from the large model with the units zeroed.
"""

from __future__ import annotations

import numpy as np

from secateur.graph.coupling import Coupling, Dims, argument
from secateur.graph.program import Node
from secateur.graph.rules.pointwise import pointwise
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


@operator("max", "min", "median", "nanmedian", "mode", averages=True)
def indexed_statistic(c: Coupling, node: Node) -> None:
    """An entry of a dimension and its index, of all dimensions without one; of two tensors the larger entries."""
    if len(tensors(node.args)) > 1:
        pointwise(c, node)
        return
    if argument(node, "dim", None) is not None:
        for at in _over(c, node):
            c.lock(node, c.of(node.args[0])[at], "the operator returns indices into it")
    _reduce(c, node)


@operator(
    "_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"
)
def running(c: Coupling, node: Node) -> None:
    """Shares of a whole, and running sums."""
    dims = c.of(node.args[0])
    if dims:
        c.crosses(node, dims[argument(node, "dim") % len(dims)])
    for which in range(len(node.outputs)):
        c.give(node, dims, which)


@operator("argmax", "argmin", "sort", "topk", "kthvalue")
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
