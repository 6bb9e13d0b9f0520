"""Whole layers removed: a residual block that hands on what it was given.

The module stays where it is, so that loops over layers and what they read of them still work, but it holds nothing
any more, and its forward returns its first tensor, times a factor where the block scaled it, and zeros for a branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.modules import submodule
from secateur.graph.forwards import Forward


class SkipForward(Forward):
    """Returns the first tensor it is given, times `factor`, as zeros where that is 0.

    Alone, or, where `items` is not 0, as the first of a tuple of so many.
    """

    def __init__(self, module: nn.Module, items: int, factor: float = 1.0) -> None:
        super().__init__(module)
        self.items, self.factor = items, factor

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Hand on the first tensor."""
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if self.factor != 1:
            first = first * self.factor if self.factor else torch.zeros_like(first)
        return (first, *[None] * (self.items - 1)) if self.items else first


def bypass(model: nn.Module, skipped: Mapping[str, int], factors: Mapping[str, float]) -> None:
    """Have the modules at these paths hand on their input; path → how many items they return, 0 for a tensor alone.

    `factors` are those that are not 1, by path.
    """
    for path, items in skipped.items():
        module = submodule(model, path)
        if not isinstance(module.__dict__.get("forward"), SkipForward):
            SkipForward(module, items, factors.get(path, 1.0))


def skip(model: nn.Module, skipped: Mapping[str, int], factors: Mapping[str, float]) -> None:
    """Bypass modules and empty them of parameters, buffers, submodules and hooks."""
    bypass(model, skipped, factors)
    for path in skipped:
        module = submodule(model, path)
        for held in ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"):
            getattr(module, held).clear()
