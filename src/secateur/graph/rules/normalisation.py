"""Normalisations: labels pass, scale and shift go along, and a statistic over a labelled dimension is recorded.

Where a statistic runs over a dimension that is cut, the smaller model computes it over fewer entries: it is exact
with respect to itself, but differs from the large model with the units zeroed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.graph.coupling import Coupling, Need, Rule, argument
from secateur.graph.labels import Vector
from secateur.graph.program import Node, Ref
from secateur.graph.rules.movement import collapse
from secateur.graph.rules.table import Normalisation, operator


def _tensors(node: Node, names: tuple[str, ...]) -> list[Ref]:
    """Return the arguments of these names that are given."""
    found = (argument(node, name, None) for name in names)
    return [ref for ref in found if isinstance(ref, Ref)]


def _statistics(c: Coupling, node: Node, dims: list[Vector | None]) -> None:
    """Label the saved statistics, which no model looks at."""
    for which in range(1, len(node.outputs)):
        rank = len(c.shape(node, which))
        c.give(node, (dims + [None] * rank)[:rank] if rank == len(dims) else [None] * rank, which)


def layer_norm(norm: Normalisation) -> Rule:
    """Return the rule of a normalisation of the trailing dimensions; scale and shift have their indices."""

    def normalise(c: Coupling, node: Node) -> None:
        dims, trailing = list(c.of(node.args[0])), len(argument(node, str(norm.shape)))
        for ref in _tensors(node, norm.tensors):
            for back in range(1, trailing + 1):
                dims[-back] = c.unite(node, dims[-back], c.of(ref)[-back])
        for vector in dims[len(dims) - trailing :]:
            c.crosses(node, vector)
        c.give(node, dims)
        _statistics(c, node, dims[: len(dims) - trailing])

    return normalise


def group_norm(norm: Normalisation) -> Rule:
    """Return the rule of a normalisation of groups of channels.

    Whole groups are the units, unless all channels are one group.
    """

    def normalise(c: Coupling, node: Node) -> None:
        dims, groups = list(c.of(node.args[0])), argument(node, str(norm.groups))
        for ref in _tensors(node, norm.tensors):
            dims[1] = c.unite(node, dims[1], c.of(ref)[0])
        vector = dims[1]
        if vector is not None and groups == 1:
            c.crosses(node, vector)
        elif vector is not None:
            c.need(node, Need(groups, collapse(c, node, c.labels.find(vector).reshape(groups, -1), 0)))
        c.give(node, dims)
        _statistics(c, node, [dims[0]])

    return normalise


def batch_norm(norm: Normalisation) -> Rule:
    """Return the rule of a normalisation of each channel by itself, over all other dimensions."""

    def normalise(c: Coupling, node: Node) -> None:
        dims = list(c.of(node.args[0]))
        for at, vector in enumerate(dims):
            if at != 1:
                c.crosses(node, vector)
        for ref in _tensors(node, norm.tensors):
            dims[1] = c.unite(node, dims[1], c.of(ref)[0])
        c.give(node, dims)
        _statistics(c, node, [dims[1]])

    return normalise


def _batch_normalised(source: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(source), source.new_empty(0), source.new_empty(0)


def _layer_normalised(source: Tensor, shape: list[int], *rest: Any) -> tuple[Tensor, ...]:
    if list(source.shape[-len(shape) :]) != list(shape):
        return torch.native_layer_norm(source, shape, *rest)  # which says what is wrong
    rows = source.new_empty(*source.shape[: -len(shape)], *(1 for _ in shape))
    return torch.empty_like(source), rows, torch.empty_like(rows)


RULES = {"trailing": layer_norm, "groups": group_norm, "channels": batch_norm}


def normalisation(*names: str, norm: Normalisation, **facts: Any) -> None:
    """Give each of these operators a row for what it normalises, with these facts."""
    operator(*names, norm=norm, **facts)(RULES[norm.over](norm))


LAYER = Normalisation("trailing", shape="normalized_shape")
GROUP = Normalisation(
    "groups", groups="group", sizes={"N": slice(0, 1), "C": slice(1, 2), "HxW": slice(2, None)}
)
BATCH = Normalisation("channels", ("weight", "bias", "running_mean", "running_var"))

normalisation("native_layer_norm", norm=LAYER, meta=_layer_normalised)
normalisation("_fused_rms_norm", norm=Normalisation("trailing", ("weight",), shape="normalized_shape"))
normalisation("native_group_norm", norm=GROUP)
normalisation("native_batch_norm", "_native_batch_norm_legit_no_training", norm=BATCH, meta=_batch_normalised)
normalisation("_batch_norm_no_update", norm=BATCH)
normalisation(
    "cudnn_batch_norm", "miopen_batch_norm", norm=Normalisation("channels", BATCH.tensors, "epsilon")
)


@operator("_weight_norm_interface")
def weight_norm(c: Coupling, node: Node) -> None:
    """v · g / ‖v‖: one norm for each index of a dimension, over all the others; zeros do not count in it."""
    v, g = argument(node, "v"), argument(node, "g")
    direction, scale = c.of(v), c.of(g)
    c.divided |= {(v.id, at) for at, vector in enumerate(scale) if vector is not None}
    dims = [
        vector if c.value(g).shape[at] == 1 else c.unite(node, vector, scale[at])
        for at, vector in enumerate(direction)
    ]
    c.give(node, dims)
    for which in range(1, len(node.outputs)):
        c.give(node, scale, which)
