"""The first operator at which a smaller model computes something else than the large one without the removed units.

Both run side by side as for a proof. Of each result only sums are kept, of the large model over the indices that stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.core.modules import named_modules
from secateur.graph.attention import stand_in
from secateur.graph.copies import is_plain_attention
from secateur.graph.cut import Cut
from secateur.graph.program import WRITE, Node
from secateur.measure.examples import Examples
from secateur.measure.inputs import ModelInputs
from secateur.shrink.over_kept import crossing
from secateur.shrink.verify import run_both

SUMS_AGREE = 1e-6
"""Largest relative difference of two sums of the same numbers."""


def first_differing(
    model: nn.Module,
    small: nn.Module,
    cut: Cut,
    example_inputs: ModelInputs | Examples,
    prepare: Callable[[nn.Module], None] = lambda large: None,
) -> Node | None:
    """Return the first operator of the trace whose results differ in the two models; None where none can be told."""

    def prepared(large: nn.Module) -> None:
        stand_in(large, [name for name, each in named_modules(large) if is_plain_attention(each)])
        prepare(large)

    large_sums, small_sums = _ResultSums(cut, whole=True), _ResultSums(cut, whole=False)
    seen = large_sums, small_sums
    with suppress(Exception):  # what both computed until then tells
        run_both(model, small, cut, example_inputs, prepared, torch.float64, crossing(cut), seen=seen)
    for at, node in enumerate(cut.coupling.program.nodes):
        if at in large_sums.found and not _agree(large_sums.found[at], small_sums.found.get(at)):
            return node
    return None


class _ResultSums:
    """Sums of what each operator of a program returns in one run, by the number of its node."""

    def __init__(self, cut: Cut, whole: bool) -> None:
        self.cut, self.whole, self.at = cut, whole, 0
        self.found: dict[int, list[float]] = {}

    def __call__(self, op: str, out: Any) -> None:
        """Find the operator among the nodes still to come, by its name and its shapes."""
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        program = self.cut.coupling.program
        for at in range(self.at, len(program.nodes)):
            node = program.nodes[at]
            if node.op == op and node.op != WRITE and self._fits(node, tensors):
                self.at = at + 1
                pairs = zip(node.outputs, tensors, strict=True)
                self.found[at] = [part for value, tensor in pairs for part in self._sums(value, tensor)]
                return

    def _fits(self, node: Node, tensors: list[Tensor]) -> bool:
        values = self.cut.coupling.program.values
        shapes = [values[output].shape if self.whole else self.cut.shape(output) for output in node.outputs]
        return shapes == [tuple(tensor.shape) for tensor in tensors]

    def _sums(self, value: int, tensor: Tensor) -> list[float]:
        """Return the sum of a tensor's entries that stay, and that of their magnitudes."""
        for dim, vector in enumerate(self.cut.coupling.dims[value] if self.whole else ()):
            if vector is not None:
                stay = torch.from_numpy(np.flatnonzero(self.cut.kept(vector)))
                tensor = tensor.index_select(dim, stay.to(tensor.device))
        wide = (
            (torch.view_as_real(tensor) if tensor.is_complex() else tensor)
            .detach()
            .double()
            .nan_to_num(0, 0, 0)
        )
        return [float(wide.sum()), float(wide.abs().sum())]


def _agree(left: list[float], right: list[float] | None) -> bool:
    if right is None or len(left) != len(right):
        return False
    scale = max(map(abs, left), default=0.0)
    close = partial(math.isclose, rel_tol=SUMS_AGREE, abs_tol=SUMS_AGREE * scale)
    return all(map(close, left, right))
