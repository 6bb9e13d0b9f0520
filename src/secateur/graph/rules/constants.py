"""Tensors made of sizes and numbers alone: constants, patterns and random numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.graph.coupling import Coupling, argument
from secateur.graph.program import Node
from secateur.graph.rules.pointwise import pointwise
from secateur.graph.rules.table import Effect, Keep, operator


@operator("zeros", "ones", "full", "empty", "empty_strided", "scalar_tensor")
@operator("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided")
def uniform(c: Coupling, node: Node) -> None:
    """A constant without a pattern: its sizes follow what it meets."""
    c.give(node, [c.labels.fresh(size) for size in c.shape(node)])


@operator("arange", "linspace", "logspace", "eye", "tril_indices", "triu_indices", "range")
@operator("hann_window", "hamming_window", "blackman_window", "bartlett_window", "kaiser_window")
@operator("_is_all_true", "_is_any_true", "_local_scalar_dense", "_assert_async", "_assert_tensor_metadata")
@operator("randint", "randperm", draws=True)
def patterned(c: Coupling, node: Node) -> None:
    """A constant whose entries differ: its sizes must stay."""
    for which in range(len(node.outputs)):
        c.give(node, [None] * len(c.shape(node, which)), which)


@operator("rand", "randn", draws=True)
def noise(c: Coupling, node: Node) -> None:
    """Random numbers: as good as any others, unless a generator of their own makes them a constant."""
    (uniform if argument(node, "generator", None) is None else patterned)(c, node)


operator("rand_like", "randn_like", "randint_like", "uniform", "exponential", "random", draws=True)(pointwise)
operator("cauchy", "log_normal", "geometric", draws=True)(pointwise)
operator("poisson", "binomial", "_standard_gamma")(pointwise)


def _normal(keep: Keep, mean: Tensor | float, std: Tensor | float = 1.0, *_: Any) -> Tensor:
    """N(mean, std²)."""
    like: Any = mean + std
    return mean + std * keep(torch.randn_like(like))


def _bernoulli(keep: Keep, source: Tensor, p: Tensor | float | None = None, *_: Any) -> Tensor:
    """1 with probability p, which is the operand where it is not given."""
    return (keep(torch.rand_like(source)) < (source if p is None else p)).to(source.dtype)


def _dropout(keep: Keep, source: Tensor, p: float, train: bool | None = True) -> tuple[Tensor, Tensor]:
    """x / (1 − p), or 0 with probability p."""
    if train is False:
        return source.clone(), torch.ones_like(source, dtype=torch.bool)
    mask = keep(torch.rand_like(source)) >= p
    return source * mask / max(1 - p, torch.finfo(source.dtype).tiny), mask


operator("normal", draws=True, from_noise=_normal)(pointwise)
operator("bernoulli", draws=True, from_noise=_bernoulli)(pointwise)
operator("native_dropout", effect=Effect.SAME, from_noise=_dropout)(pointwise)
