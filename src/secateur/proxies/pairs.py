"""Comparisons of all pairs of scores, some rows of the table at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PAIR_CHUNK = 1024


def preferred(scores: Tensor) -> Tensor:
    """Return each entry's share of wins less its share of losses against the others; [voters, n] → float64 [n].

    Of two entries the one with the higher score from more voters wins; a tie is neither a win nor a loss.

    >>> preferred(torch.tensor([[1, 2, 3], [1, 3, 2], [3, 1, 2]])).tolist()
    [-1.0, 0.0, 1.0]
    """
    won = [signs(scores, part).sum(0).sign().sum(1) for part in parts(scores.shape[1])]
    return torch.cat(won).double() / max(1, scores.shape[1] - 1)


def ordered(scores: Tensor, accuracies: Tensor) -> tuple[float, int]:
    """Return the share of correctly ordered pairs among those of different accuracy, and their number.

    Ties of scores count half. Both inputs have shape [n]; the share of no pairs is NaN.

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
    """Return 1, 0 or −1 for entries of `part` above, equal to or below each entry of `values` [voters, n].

    The result is int8 [voters, part, n].
    """
    rows, columns = values[:, part, None], values[:, None, :]
    return (rows > columns).to(torch.int8) - (rows < columns).to(torch.int8)


def parts(count: int) -> Iterator[slice]:
    """Return slices of `PAIR_CHUNK` entries that cover 0 to `count`."""
    return (slice(start, start + PAIR_CHUNK) for start in range(0, count, PAIR_CHUNK))
