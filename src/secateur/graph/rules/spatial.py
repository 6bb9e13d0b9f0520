"""Operators over spatial dimensions: batch and channels pass, the rest must stay."""

from __future__ import annotations

import math

from secateur.graph.coupling import Coupling, Rule, argument
from secateur.graph.program import Node
from secateur.graph.rules.contraction import side_by_side
from secateur.graph.rules.movement import collapse
from secateur.graph.rules.table import lock_all, operator


def over_last(count: int) -> Rule:
    """Return the rule of pooling, resampling and padding of so many trailing dimensions."""

    def spatial(c: Coupling, node: Node) -> None:
        dims = list(c.of(node.args[0]))
        for at in range(len(dims) - count, len(dims)):
            c.lock(node, dims[at], "it is a spatial dimension")
            dims[at] = None
        for which in range(len(node.outputs)):
            c.give(node, dims, which)

    return spatial


for _rank in (1, 2, 3):
    operator(f"reflection_pad{_rank}d", f"replication_pad{_rank}d")(over_last(_rank))
    operator(f"upsample_nearest{_rank}d", f"_upsample_nearest_exact{_rank}d")(over_last(_rank))
for _rank in (2, 3):
    operator(f"avg_pool{_rank}d", f"_adaptive_avg_pool{_rank}d")(over_last(_rank))
    operator(f"max_pool{_rank}d_with_indices", f"adaptive_max_pool{_rank}d")(over_last(_rank))
    operator(f"fractional_max_pool{_rank}d")(over_last(_rank))
operator("upsample_linear1d")(over_last(1))
operator("upsample_bilinear2d", "upsample_bicubic2d", "mkldnn_max_pool2d")(over_last(2))
operator("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")(over_last(2))
operator("upsample_trilinear3d", "mkldnn_max_pool3d")(over_last(3))


def unpool(count: int) -> Rule:
    """Return the rule of putting entries back where a pooling found them, whose batch and channels are theirs."""

    def spatial(c: Coupling, node: Node) -> None:
        source, indices = c.of(node.args[0]), c.of(argument(node, "indices"))
        lead = len(source) - count
        for vector in (*source[lead:], *indices[lead:]):
            c.lock(node, vector, "it is a spatial dimension")
        dims = [c.unite(node, *pair) for pair in zip(source[:lead], indices[:lead], strict=True)]
        c.give(node, [*dims, *[None] * count])

    return spatial


operator("max_unpool2d")(unpool(2))
operator("max_unpool3d")(unpool(3))


@operator("grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(c: Coupling, node: Node) -> None:
    """[N, C, …] looked at in the places of a grid [N, …, coordinates]."""
    (batch, channels, *spatial), (other, *grid) = c.of(node.args[0]), c.of(argument(node, "grid"))
    for vector in (*spatial, *grid):
        c.lock(node, vector, "it is a spatial dimension")
    c.give(node, [side_by_side(c, node, batch, other), channels, *[None] * len(spatial)])


@operator("affine_grid_generator")
def affine_grid(c: Coupling, node: Node) -> None:
    """Matrices [N, rows, columns] → grids [N, …, coordinates]."""
    batch, *matrix = c.of(argument(node, "theta"))
    for vector in matrix:
        c.lock(node, vector, "it holds coordinates")
    c.give(node, [batch, *[None] * (len(c.shape(node)) - 1)])


@operator("roi_align", "roi_pool")
def of_regions(c: Coupling, node: Node) -> None:
    """[N, C, H, W] looked at in regions [K, …]: [K, C, h, w]."""
    batch, channels, *spatial = c.of(argument(node, "input"))
    for vector in (batch, *spatial, *c.of(argument(node, "rois"))):
        c.lock(node, vector, "regions of it are looked at")
    c.give(node, [None, channels, None, None])
    for which in range(1, len(node.outputs)):
        c.give(node, [None, channels, None, None], which)


@operator("ps_roi_align", "ps_roi_pool")
@operator("nms", decides=True)
def by_place(c: Coupling, node: Node) -> None:
    """Boxes chosen by overlap, and regions whose parts come from channels of their own."""
    lock_all(c, node, "the operator looks at the place of each entry")


@operator("im2col")
def im2col(c: Coupling, node: Node) -> None:
    """[N, C, H, W] → [N, C · kernel, windows]: each channel becomes a run of as many as the kernel has entries."""
    dims = list(c.of(node.args[0]))
    for at in (-1, -2):
        c.lock(node, dims[at], "it is a spatial dimension")
    channels = dims[-3]
    kernel = math.prod(argument(node, "kernel_size"))
    c.give(node, [*dims[:-3], None if channels is None else channels.repeat(kernel), None])


@operator("col2im")
def col2im(c: Coupling, node: Node) -> None:
    """[N, C · kernel, windows] → [N, C, H, W]."""
    dims = list(c.of(node.args[0]))
    kernel = math.prod(argument(node, "kernel_size"))
    runs = dims[-2]
    channels = None if runs is None else collapse(c, node, c.labels.find(runs).reshape(-1, kernel), 0)
    c.lock(node, dims[-1], "it is a spatial dimension")
    c.give(node, [*dims[:-2], channels, None, None])


@operator("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fourier(c: Coupling, node: Node) -> None:
    """Fourier transforms of some dimensions."""
    dims = list(c.of(node.args[0]))
    for at in argument(node, "dim"):
        c.lock(node, dims[at], "it is transformed as a whole")
        dims[at] = None
    c.give(node, dims)
