"""Whole residual blocks, bypassed."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.sparsity.granularity.base import Granularity, granularity


@granularity
@dataclass(frozen=True)
class Layer(Granularity):
    """One residual block."""

    kind = written = "layer"
    summary = "residual blocks, bypassed"
    elements = frozenset({"layers"})
    removes = True
