"""Random numbers drawn in a forward, such as the noise of a variational autoencoder: the same for both models.

The large model draws, and what stays of its numbers is given to the smaller one, so that their outputs can be compared.
Operators whose result also depends on what they are given (dropout, a normal of some mean) are computed from noise that
does not, so that a wrong operand still shows.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.graph.cut import Cut
from secateur.graph.operators import row
from secateur.graph.program import Node
from secateur.graph.rules.table import Keep


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


def run(func: Any, op: str, args: Any, kwargs: Any, keep: Keep) -> Any:
    """Run an operator; `keep` sees the numbers it draws, if it draws any, and returns those to use.

    Numbers from a generator of the model's own are a constant to it, and left as they are.
    """
    known = row(op, func)
    if kwargs.get("generator") is not None or not (known.draws or known.from_noise):
        return func(*args, **kwargs)
    written = op.endswith("_")
    given = any(
        isinstance(argument, Tensor) for argument in args[1 if written or op.endswith("_like") else 0 :]
    )
    if not given:
        drawn = func(*args, **kwargs)
        return keep(drawn) if known.draws else drawn
    if known.from_noise is None:
        return func(*args, **kwargs)
    computed = known.from_noise(keep, *args)
    return args[0].copy_(computed) if written else computed
