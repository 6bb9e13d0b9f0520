"""Numbers compared pair by pair, some rows of the table of pairs at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PAIR_CHUNK = 1024


def preferred(scores: Tensor) -> Tensor:
    """Return the share of the other entries that each wins against less that it loses to; [voters, n] → float64 [n].

    Of two entries that one wins for which more voters have the higher score; a tie is neither won nor lost.

    >>> preferred(torch.tensor([[1, 2, 3], [1, 3, 2], [3, 1, 2]])).tolist()
    [-1.0, 0.0, 1.0]
    """
    won = [signs(scores, part).sum(0).sign().sum(1) for part in parts(scores.shape[1])]
    return torch.cat(won).double() / max(1, scores.shape[1] - 1)


def ordered(scores: Tensor, accuracies: Tensor) -> tuple[float, int]:
    """Return in which share of the pairs of different accuracy the scores agree, ties counted half, and how many pairs.

    >>> ordered(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0]))[1]
    3
    """
    agreed = pairs = 0
    for part in parts(len(scores)):
        better, higher = signs(accuracies[None], part)[0], signs(scores[None], part)[0]
        agreed += int((better * higher).sum(dtype=torch.int64))
        pairs += int(better.count_nonzero())
    return ((agreed / pairs + 1) / 2 if pairs else float("nan")), pairs // 2


def signs(values: Tensor, part: slice) -> Tensor:
    """Return 1, 0 or −1 where an entry of `part` is above, level with or below every entry; int8 [voters, part, n]."""
    rows, columns = values[:, part, None], values[:, None, :]
    return (rows > columns).to(torch.int8) - (rows < columns).to(torch.int8)


def parts(count: int) -> Iterator[slice]:
    """Yield slices of 0 to `count`."""
    return (slice(start, start + PAIR_CHUNK) for start in range(0, count, PAIR_CHUNK))
