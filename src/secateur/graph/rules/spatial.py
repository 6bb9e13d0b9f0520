"""Operators over spatial dimensions: batch and channels pass, the rest must stay."""

from __future__ import annotations

import re

from secateur.graph.coupling import Coupling
from secateur.graph.program import Node, Ref
from secateur.graph.rules.movement import collapse
from secateur.graph.rules.table import rule


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d")
@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "mkldnn_max_pool2d", "_adaptive_avg_pool2d")
@rule("_adaptive_avg_pool3d", "adaptive_avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool3d")
@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d")
@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact2d")
@rule("_upsample_nearest_exact1d", "upsample_linear1d", "upsample_bilinear2d", "_upsample_bilinear2d_aa")
@rule("upsample_bicubic2d", "_upsample_bicubic2d_aa", "upsample_trilinear3d", "lp_pool2d")
@rule("reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d")
@rule("replication_pad3d", "grid_sampler_2d", "grid_sampler_3d", "max_unpool2d", "max_unpool3d")
def spatial(c: Coupling, node: Node) -> None:
    """Pooling, resampling and padding of the last one, two or three dimensions."""
    source: Ref = node.args[0]
    dims = list(c.of(source))
    found = re.search(r"([123])d", node.op)
    trailing = min(int(found.group(1)) if found else 2, len(dims))
    for at in range(len(dims) - trailing, len(dims)):
        c.lock(node, dims[at], "it is a spatial dimension")
        dims[at] = None
    for which in range(len(node.outputs)):
        c.give(node, dims, which)


@rule("im2col")
def im2col(c: Coupling, node: Node) -> None:
    """[N, C, H, W] → [N, C · kernel, windows]: each channel becomes a run of as many as the kernel has entries."""
    dims = list(c.of(node.args[0]))
    for at in (-1, -2):
        c.lock(node, dims[at], "it is a spatial dimension")
    channels = dims[-3]
    kernel = node.args[1][0] * node.args[1][1]
    c.give(node, [*dims[:-3], None if channels is None else channels.repeat(kernel), None])


@rule("col2im")
def col2im(c: Coupling, node: Node) -> None:
    """[N, C · kernel, windows] → [N, C, H, W]."""
    dims = list(c.of(node.args[0]))
    kernel = node.args[2][0] * node.args[2][1]
    runs = dims[-2]
    channels = None if runs is None else collapse(c, node, c.labels.find(runs).reshape(-1, kernel), 0)
    c.lock(node, dims[-1], "it is a spatial dimension")
    c.give(node, [*dims[:-2], channels, None, None])


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fourier(c: Coupling, node: Node) -> None:
    """Fourier transforms of some dimensions."""
    dims = list(c.of(node.args[0]))
    for at in node.args[1]:
        c.lock(node, dims[at], "it is transformed as a whole")
        dims[at] = None
    c.give(node, dims)
