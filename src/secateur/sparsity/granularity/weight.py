"""Single weights, set to zero."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.sparsity.granularity.base import Granularity, granularity


@granularity
@dataclass(frozen=True)
class Weight(Granularity):
    """One weight."""

    kind = written = "weight"
    summary = "single weights, set to zero"
    elements = frozenset({"weights"})
    single = True
