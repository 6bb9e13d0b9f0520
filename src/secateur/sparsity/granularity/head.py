"""Heads of attention, removed with their queries, keys, values and projections."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.sparsity.granularity.base import Granularity, granularity


@granularity
@dataclass(frozen=True)
class Head(Granularity):
    """One attention head."""

    kind = written = "head"
    summary = "attention heads, removed"
    elements = frozenset({"units", "heads"})
    removes = grouped = True
