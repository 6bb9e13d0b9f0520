"""Channels: units of coupled groups, removed from every tensor of their group."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.sparsity.granularity.base import Granularity, granularity


@granularity
@dataclass(frozen=True)
class Channel(Granularity):
    """One unit of a coupled group: a channel, a neuron, a feature of the residual stream."""

    kind = written = "channel"
    summary = "units of coupled groups, removed from every tensor they run through"
    elements = frozenset({"units", "channels"})
    removes = grouped = True
