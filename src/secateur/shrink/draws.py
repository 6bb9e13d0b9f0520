"""Random numbers drawn in a forward, such as the noise of a variational autoencoder: the same for both models.

The large model draws, and what stays of its numbers is given to the smaller one, so that their outputs can be compared.
Operators whose result also depends on what they are given (dropout, a normal of some mean) are computed from noise that
does not, so that a wrong operand still shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.graph.cut import Cut
from secateur.graph.program import Node

SHAPE_DRAWS = {
    "rand", "randn", "rand_like", "randn_like", "normal", "normal_", "uniform_", "bernoulli_", "exponential_",
    "cauchy_", "log_normal_", "geometric_",
}  # fmt: skip
"""Operators that draw numbers which depend on no tensor, only on the shape of one."""


class Draws:
    """The numbers one run drew, by operator and how many of them came before; for a cut's other run to draw again."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self.drawn: dict[tuple[str, int], Tensor] = {}
        self.nodes: dict[str, list[Node]] = defaultdict(list)
        for node in cut.coupling.program.nodes:
            self.nodes[node.op].append(node)

    def first(self, op: str, nth: int, numbers: Tensor) -> Tensor:
        """Remember what the large model drew."""
        self.drawn[op, nth] = numbers.clone()
        return numbers

    def again(self, op: str, nth: int, numbers: Tensor) -> Tensor:
        """Put what stays of the large model's numbers into those the smaller one drew, where they have one shape."""
        whole = self.drawn.get((op, nth))
        if whole is None or nth >= len(self.nodes[op]):
            return numbers
        for dim, vector in enumerate(self.cut.coupling.dims[self.nodes[op][nth].outputs[0]]):
            if vector is not None and whole.shape[dim] == len(vector):
                stay = torch.from_numpy(np.flatnonzero(self.cut.kept(vector)))
                whole = whole.index_select(dim, stay.to(whole.device))
        return numbers.copy_(whole) if whole.shape == numbers.shape else numbers


Keep = Callable[[Tensor], Tensor]


def run(func: Any, op: str, args: Any, kwargs: Any, keep: Keep) -> Any:
    """Run an operator; `keep` sees the numbers it draws, if it draws any, and returns those to use.

    Numbers from a generator of the model's own are a constant to it, and left as they are.
    """
    given = any(isinstance(argument, Tensor) for argument in args[1 if op.endswith(("_", "_like")) else 0 :])
    if kwargs.get("generator") is None and given and op in FROM_NOISE:
        return FROM_NOISE[op](keep, *args)
    drawn = func(*args, **kwargs)
    return keep(drawn) if kwargs.get("generator") is None and op in SHAPE_DRAWS and not given else drawn


def _normal(keep: Keep, mean: Tensor | float, std: Tensor | float = 1.0, *_: Any) -> Tensor:
    """N(mean, std²)."""
    like: Any = mean + std
    return mean + std * keep(torch.randn_like(like))


def _bernoulli(keep: Keep, source: Tensor, p: float | None = None, *_: Any) -> Tensor:
    """1 with probability p, which is the operand where it is not given."""
    return (keep(torch.rand_like(source)) < (source if p is None else p)).to(source.dtype)


def _dropout(keep: Keep, source: Tensor, p: float, train: bool | None = True) -> tuple[Tensor, Tensor]:
    """x / (1 − p), or 0 with probability p."""
    if train is False:
        return source.clone(), torch.ones_like(source, dtype=torch.bool)
    mask = keep(torch.rand_like(source)) >= p
    return source * mask / max(1 - p, torch.finfo(source.dtype).tiny), mask


FROM_NOISE: dict[str, Callable[..., Any]] = {
    "normal": _normal,
    "bernoulli": _bernoulli,
    "native_dropout": _dropout,
}
"""Operators that draw numbers which depend on their operands."""
