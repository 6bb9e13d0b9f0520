"""Reproducible random choices about data: subsets, orders, augmentation.

Each is drawn from a generator made here from a key such as `(seed, "order", epoch)`. The numbers depend on the
key alone, not on earlier draws, the number of processes or Python's hash seed.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator whose stream is a pure function of `key`."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def balanced_order(labels: Tensor, stream: torch.Generator) -> Tensor:
    """Return a random order, int64 [N], of `labels`, int64 [N], that takes the classes in turn.

    Every prefix is as class-balanced as the class sizes allow.
    """
    order = torch.randperm(len(labels), generator=stream)
    return order[_rank_in_class(labels[order]).argsort(stable=True)]


def held_out(labels: Tensor, fraction: float, stream: torch.Generator) -> Tensor:
    """Return a mask, bool [N], of a random `fraction` of every class of `labels`, int64 [N]."""
    order = torch.randperm(len(labels), generator=stream)
    shuffled = labels[order]
    quota = (shuffled.bincount() * fraction).round()
    mask = torch.empty(len(labels), dtype=torch.bool)
    mask[order] = _rank_in_class(shuffled) < quota[shuffled]
    return mask


def _rank_in_class(labels: Tensor) -> Tensor:
    """Return for each label the number of equal ones before it, int64 [N]."""
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    ranks = torch.empty_like(labels)
    ranks[by_class] = torch.arange(len(labels)) - first[labels[by_class]]
    return ranks
