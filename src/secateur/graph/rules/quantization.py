"""Fake quantisation by channel: scales, zero points and observed ranges go along with the channels they are of."""

from __future__ import annotations

from secateur.graph.coupling import Coupling, argument
from secateur.graph.program import Node, Ref
from secateur.graph.rules.pointwise import entrywise

RANGES = ("running_min", "running_max", "scale")


def _of_channels(c: Coupling, node: Node, axis: int, names: tuple[str, ...]) -> None:
    """Unite a dimension with the arguments that have an entry for each of its indices; its labels pass."""
    source: Ref = argument(node, "self")
    dims = list(c.of(source))
    for name in names:
        ref: Ref = argument(node, name)
        if c.value(ref).shape == (c.value(source).shape[axis],):
            dims[axis] = c.unite(node, dims[axis], c.of(ref)[0])
    c.give(node, dims)
    for which in range(1, len(node.outputs)):
        rank = len(c.shape(node, which))
        channels = [dims[axis] if c.shape(node, which) == c.shape(node)[axis : axis + 1] else None] * rank
        c.give(node, dims if c.shape(node, which) == c.shape(node) else channels, which)


@entrywise("fake_quantize_per_channel_affine_cachemask", single=("scale",))
@entrywise("_fake_quantize_learnable_per_channel_affine", single=("scale", "zero_point"))
def rounded_by_channel(c: Coupling, node: Node) -> None:
    """Entries rounded to steps of their channel."""
    _of_channels(c, node, argument(node, "axis"), ("scale", "zero_point"))


@entrywise("_fused_moving_avg_obs_fq_helper", single=RANGES)
def observed(c: Coupling, node: Node) -> None:
    """Entries rounded to steps that follow from their range, of all of them or of each channel."""
    by_channel = argument(node, "per_row_fake_quant")
    _of_channels(c, node, argument(node, "ch_axis"), (*RANGES, "zero_point") if by_channel else ())
