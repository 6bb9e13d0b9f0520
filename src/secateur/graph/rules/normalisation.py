"""Normalisations and reductions: labels pass, and a statistic over a labelled dimension is recorded.

Where a statistic runs over a dimension that is cut, the smaller model computes it over fewer entries: it is exact
with respect to itself, but differs from the large model with the units zeroed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from secateur.graph.coupling import Coupling, Dims, Need, argument
from secateur.graph.labels import Vector
from secateur.graph.program import Node, Ref
from secateur.graph.rules.movement import collapse
from secateur.graph.rules.pointwise import pointwise
from secateur.graph.rules.table import rule, tensors


def _chosen(dim: Any, count: int) -> list[int]:
    """Return the dimensions a reduction runs over; none named means all."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return list(range(count))
    return [int(at) % max(1, count) for at in np.atleast_1d(dim)]


def _reduce(c: Coupling, node: Node, over: list[int], keepdim: bool) -> None:
    dims: Dims = list(c.of(node.args[0]))
    for at in over:
        c.crosses(node, dims[at])
    after = [None if at in over else vector for at, vector in enumerate(dims) if keepdim or at not in over]
    for which in range(len(node.outputs)):
        c.give(node, after, which)


@rule("sum", "nansum", "count_nonzero")
def sum_(c: Coupling, node: Node) -> None:
    """A sum: units may be other than zero where their weights are, as behind an exponential."""
    count = len(c.of(node.args[0]))
    over = _chosen(argument(node, 1, "dim"), count)
    _reduce(c, node, over, bool(argument(node, 2, "keepdim", False)))


@rule(
    "mean", "amax", "amin", "logsumexp", "median", "nanmedian", "prod", "all", "any", "std", "var", "var_mean"
)
@rule("std_mean", "max", "min", "mode", "nanmean")
def statistic(c: Coupling, node: Node) -> None:
    """Mean, variance, extremes over dimensions."""
    operands = tensors(node.args)
    if len(operands) > 1:  # the maximum of two tensors
        pointwise(c, node)
        return
    count = len(c.of(operands[0]))
    dim = argument(node, 1, "dim")
    keep = bool(argument(node, 3 if "var" in node.op or "std" in node.op else 2, "keepdim", False))
    if node.op in ("median", "nanmedian", "mode", "max", "min", "prod", "all", "any") and dim is not None:
        for at in _chosen(dim, count):
            if node.op not in ("prod", "all", "any"):
                c.lock(node, c.of(operands[0])[at], "the operator returns indices into it")
    _reduce(c, node, _chosen(dim, count), keep)


@rule("linalg_vector_norm", "norm")
def norm(c: Coupling, node: Node) -> None:
    """A norm over dimensions."""
    at = 2 if node.op == "linalg_vector_norm" or len(node.args) > 2 else 1
    count = len(c.of(node.args[0]))
    over = _chosen(argument(node, at, "dim"), count)
    _reduce(c, node, over, bool(argument(node, at + 1, "keepdim", False)))


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax")
def softmax(c: Coupling, node: Node) -> None:
    """Shares of a whole."""
    dims = c.of(node.args[0])
    if dims:
        c.crosses(node, dims[node.args[1] % len(dims)])
    c.give(node, dims)


@rule("cumsum", "cumprod", "cummax", "logcumsumexp")
def running(c: Coupling, node: Node) -> None:
    """A running sum."""
    dims = c.of(node.args[0])
    c.crosses(node, dims[node.args[1] % len(dims)])
    for which in range(len(node.outputs)):
        c.give(node, dims, which)


@rule("argmax", "argmin", "sort", "argsort", "topk", "kthvalue", "msort")
def order(c: Coupling, node: Node) -> None:
    """What looks at the order of entries depends on the indices of that dimension."""
    dims = list(c.of(node.args[0]))
    at = {"argmax": 1, "argmin": 1, "topk": 2, "kthvalue": 2}.get(node.op, 1)
    dim = argument(node, at, "dim", -1 if node.op not in ("argmax", "argmin") else None)
    for over in _chosen(dim, len(dims)):
        c.lock(node, dims[over], "the operator ranks its entries")
        dims[over] = None
    keep = bool(argument(node, 2, "keepdim", False))
    for which in range(len(node.outputs)):
        rank = len(c.shape(node, which))
        if rank == len(dims):
            c.give(node, dims, which)
        else:
            left = [v for at, v in enumerate(dims) if keep or at not in _chosen(dim, len(dims))]
            c.give(node, left if len(left) == rank else [None] * rank, which)


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm", "_fused_layer_norm")
def layer_norm(c: Coupling, node: Node) -> None:
    """Normalise the trailing dimensions; scale and shift have their indices."""
    source: Ref = node.args[0]
    dims = list(c.of(source))
    trailing = len(node.args[1])
    for ref in tensors(node.args[2:4]):
        for back in range(1, trailing + 1):
            dims[-back] = c.unite(node, dims[-back], c.of(ref)[-back])
    for vector in dims[len(dims) - trailing :]:
        c.crosses(node, vector)
    c.give(node, dims)
    _statistics(c, node, dims[: len(dims) - trailing])


@rule("native_group_norm", "group_norm")
def group_norm(c: Coupling, node: Node) -> None:
    """Normalise groups of channels: whole groups are the units, unless all channels are one group."""
    source: Ref = node.args[0]
    dims = list(c.of(source))
    groups = argument(node, 6, "group") if node.op == "native_group_norm" else node.args[1]
    for ref in tensors(node.args[1:3] if node.op == "native_group_norm" else node.args[2:4]):
        dims[1] = c.unite(node, dims[1], c.of(ref)[0])
    vector = dims[1]
    if vector is not None:
        if groups == 1:
            c.crosses(node, vector)
        else:
            group = collapse(c, node, c.labels.find(vector).reshape(groups, -1), 0)
            c.need(node, Need(groups, group))
    c.give(node, dims)
    _statistics(c, node, [dims[0]])


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "batch_norm")
@rule("cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update", "_batch_norm_with_update")
@rule("_batch_norm_impl_index", "instance_norm", "native_batch_norm_backward")
def batch_norm(c: Coupling, node: Node) -> None:
    """Normalise each channel by itself, over all other dimensions."""
    dims = list(c.of(node.args[0]))
    for at, vector in enumerate(dims):
        if at != 1:
            c.crosses(node, vector)
    for ref in tensors(node.args[1:5]):
        dims[1] = c.unite(node, dims[1], c.of(ref)[0])
    c.give(node, dims)
    _statistics(c, node, [dims[1]])


@rule("_weight_norm_interface", "_weight_norm")
def weight_norm(c: Coupling, node: Node) -> None:
    """v · g / ‖v‖: one norm for each index of a dimension, over all the others; zeros do not count in it."""
    direction, scale = c.of(node.args[0]), c.of(node.args[1])
    c.divided |= {(node.args[0].id, at) for at, vector in enumerate(scale) if vector is not None}
    dims = [
        vector if c.value(node.args[1]).shape[at] == 1 else c.unite(node, vector, scale[at])
        for at, vector in enumerate(direction)
    ]
    c.give(node, dims)
    for which in range(1, len(node.outputs)):
        c.give(node, scale, which)


def _statistics(c: Coupling, node: Node, dims: list[Vector | None]) -> None:
    """Label the saved statistics, which no model looks at."""
    for which in range(1, len(node.outputs)):
        rank = len(c.shape(node, which))
        c.give(node, (dims + [None] * rank)[:rank] if rank == len(dims) else [None] * rank, which)
