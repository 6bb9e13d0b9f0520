"""Operators that compute each entry from the entries at the same place: what meets is united."""

from __future__ import annotations

from secateur.graph.coupling import Coupling, Dims
from secateur.graph.labels import Vector
from secateur.graph.program import Node, Ref
from secateur.graph.rules.table import rule, tensors


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


@rule("pointwise", "where", "masked_fill", "copy", "clamp", "lerp", "addcmul", "addcdiv", "hardtanh")
@rule(
    "native_dropout", "_prelu_kernel", "_masked_scale", "complex", "polar", "floor_divide", "rrelu_with_noise"
)
@rule("clone", "_to_copy", "detach", "alias", "lift_fresh", "lift_fresh_copy", "contiguous", "to", "dropout")
@rule(
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
    "rand_like",
    "randn_like",
    "bernoulli",
    "fill",
    "zero",
)
@rule(
    "isnan", "isinf", "isfinite", "nan_to_num", "logical_not", "bitwise_not", "conj", "_conj", "resolve_conj"
)
@rule("rsub", "heaviside", "special_erf", "erfinv", "glu_jvp", "_fake_quantize_learnable_per_tensor_affine")
@rule(
    "elu",
    "celu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "hardswish",
    "hardsigmoid",
    "leaky_relu",
    "softplus",
    "threshold",
)
@rule(
    "log_sigmoid_forward",
    "relu6",
    "logit",
    "normal",
    "uniform",
    "exponential",
    "random",
    "real",
    "imag",
    "angle",
)
@rule("isneginf", "isposinf", "isin", "bucketize", "scalar_tensor", "_unsafe_masked_index_put_accumulate")
def pointwise(c: Coupling, node: Node) -> None:
    """Unite the operands wherever they meet."""
    for which in range(len(node.outputs)):
        shape = c.shape(node, which)
        dims = meet(c, node, tensors((node.args, node.kwargs)), shape) if shape else []
        c.give(node, dims, which)


@rule("zeros", "ones", "full", "empty", "empty_strided", "new_zeros", "new_ones", "new_full", "new_empty")
@rule("new_empty_strided", "empty_memory_format")
def uniform(c: Coupling, node: Node) -> None:
    """A constant without a pattern: its sizes follow what it meets."""
    c.give(node, [c.labels.fresh(size) for size in c.shape(node)])


@rule("rand", "randn")
def noise(c: Coupling, node: Node) -> None:
    """Random numbers: as good as any others, unless a generator of their own makes them a constant."""
    (uniform if node.kwargs.get("generator") is None else patterned)(c, node)


@rule(
    "arange",
    "linspace",
    "eye",
    "randint",
    "randperm",
    "tril_indices",
    "triu_indices",
    "logspace",
)
@rule(
    "_is_all_true",
    "_is_any_true",
    "_local_scalar_dense",
    "item",
    "_assert_async",
    "_assert_tensor_metadata",
    "hann_window",
    "full_range",
)
def patterned(c: Coupling, node: Node) -> None:
    """A constant whose entries differ: its sizes must stay."""
    for which in range(len(node.outputs)):
        c.give(node, [None] * len(c.shape(node, which)), which)


@rule("write")
def write(c: Coupling, node: Node) -> None:
    """A write into a part of a memory: the writer has united its content with the part's labels already."""
    overwritten: Ref = node.args[0]
    c.dims[node.outputs[0]] = list(c.of(overwritten))
