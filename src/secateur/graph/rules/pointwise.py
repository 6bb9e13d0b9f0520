"""Operators that compute each entry from the entries at the same place: what meets is united.

Most have no row: torch itself tags them as pointwise. Those here are not tagged in each version, or something else is
known of them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from secateur.graph.coupling import Coupling, Dims
from secateur.graph.labels import Vector
from secateur.graph.program import WRITE, Node, Ref
from secateur.graph.rules.table import Effect, Operator, operator, tensors

entrywise = partial(operator, effect=Effect.POINTWISE)


def meet(c: Coupling, node: Node, operands: list[Ref], shape: tuple[int, ...]) -> Dims:
    """Return the vectors of operands broadcast to `shape`, those that meet in a dimension united."""
    dims: Dims = []
    for back in range(len(shape), 0, -1):
        meeting: list[Vector | None] = []
        for ref in operands:
            sizes = c.value(ref).shape
            if len(sizes) >= back and sizes[-back] == shape[-back] and sizes[-back] != 1:
                meeting.append(c.of(ref)[-back])
        if not meeting:
            dims.append(c.labels.fresh(shape[-back]) if shape[-back] > 1 else None)
            continue
        vector = meeting[0]
        for other in meeting[1:]:
            if vector is not other:
                vector = c.unite(node, vector, other)
        dims.append(vector)
    return dims


def _like(source: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(source)


@entrywise("add", linear=2, adds=True)
@entrywise("sub", "rsub", linear=2)
@entrywise("mul", "div", "neg", linear=1)
@entrywise("relu", idempotent=True)
@entrywise("hardtanh", idempotent=True, meta=_like)
@entrywise("hardswish", "hardsigmoid", "gelu", meta=_like)
@entrywise("leaky_relu", "log_sigmoid_forward", "_prelu_kernel", "rrelu_with_noise")
@entrywise("celu", "elu", "heaviside", "mish", "threshold")
@entrywise("where", "masked_fill", "copy", "fill", "zero", "floor_divide", "complex", "polar")
@entrywise("gt", "lt", "ge", "le", "eq", "ne", "round", "floor", "ceil", "trunc", "sign", decides=True)
@entrywise("_masked_scale", "_fake_quantize_learnable_per_tensor_affine")
@entrywise("fake_quantize_per_tensor_affine_cachemask")
@entrywise("_fake_quantize_per_tensor_affine_cachemask_tensor_qparams")
@operator(
    "clone", "_to_copy", "_conj", "detach", "alias", "lift_fresh", "lift_fresh_copy", effect=Effect.SAME
)
@operator("zeros_like", "ones_like", "empty_like", "full_like")
def pointwise(c: Coupling, node: Node) -> None:
    """Unite the operands wherever they meet."""
    for which in range(len(node.outputs)):
        shape = c.shape(node, which)
        dims = meet(c, node, tensors((node.args, node.kwargs)), shape) if shape else []
        c.give(node, dims, which)


TAGGED = Operator("pointwise", pointwise, Effect.POINTWISE)
"""The row of all operators without one that torch tags as pointwise."""


@operator("isin", "bucketize")
def looked_up(c: Coupling, node: Node) -> None:
    """Each entry compared with all those of another tensor, which must stay."""
    source, *others = tensors((node.args, node.kwargs))
    for ref in others:
        for vector in c.of(ref):
            c.lock(node, vector, "every entry is compared with all of its")
    c.give(node, c.of(source) if c.value(source).shape == c.shape(node) else [None] * len(c.shape(node)))


@operator(WRITE)
def write(c: Coupling, node: Node) -> None:
    """A write into a part of a memory: the writer has united its content with the part's labels already."""
    overwritten: Ref = node.args[0]
    c.dims[node.outputs[0]] = list(c.of(overwritten))
