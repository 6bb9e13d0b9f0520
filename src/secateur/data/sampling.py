"""Random choices that anyone can repeat.

Every choice made about data (which examples, in which order, cropped where) is drawn from a generator made
here from a key such as `(seed, "order", epoch)`. The key alone decides the numbers: not what was drawn
before, nor the number of processes, nor Python's hash seed.
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
    """Return a random order, int64 [N], that deals the classes in turn.

    Every prefix of it is as class-balanced as the labels, int64 [N], allow: a class takes part until it runs
    out.
    """
    order = torch.randperm(len(labels), generator=stream)
    return order[_rank_in_class(labels[order]).argsort(stable=True)]


def held_out(labels: Tensor, fraction: float, stream: torch.Generator) -> Tensor:
    """Choose a random `fraction` of every class; returns a mask, bool [N], of the chosen."""
    order = torch.randperm(len(labels), generator=stream)
    shuffled = labels[order]
    quota = (shuffled.bincount() * fraction).round()
    mask = torch.empty(len(labels), dtype=torch.bool)
    mask[order] = _rank_in_class(shuffled) < quota[shuffled]
    return mask


def _rank_in_class(labels: Tensor) -> Tensor:
    """Return for each label how many equal ones stand before it, int64 [N]."""
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    ranks = torch.empty_like(labels)
    ranks[by_class] = torch.arange(len(labels)) - first[labels[by_class]]
    return ranks
