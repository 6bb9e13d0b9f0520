"""Statistics of repeated measurements: mean and spread, paired comparison with a baseline, and the Pareto front.

Spread is the standard deviation of a sample (n − 1); intervals are two-sided, by Student's t.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.core.errors import InputError


@dataclass(frozen=True)
class Summary:
    """`n` measurements: their mean, standard deviation, and confidence interval of the mean, `low` to `high`.

    The last three are None for a single measurement.
    """

    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None


def summarise(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Summarise measurements, with an interval of this `confidence`. Raises `InputError` if there are none.

    >>> found = summarise([0.90, 0.92, 0.94])
    >>> round(found.mean, 3), round(found.deviation, 3), round(found.low, 3), round(found.high, 3)
    (0.92, 0.02, 0.87, 0.97)
    """
    from scipy import stats

    if not values:
        raise InputError("There is nothing to summarise: give at least one number.")
    n, mean = len(values), float(statistics.mean(values))
    if n == 1:
        return Summary(n, mean, None, None, None)
    deviation = float(statistics.stdev(values))  # exact: of equal values it is 0
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * deviation / math.sqrt(n)
    return Summary(n, mean, deviation, mean - half, mean + half)


def paired(
    values: Mapping[Hashable, float], baseline: Mapping[Hashable, float], confidence: float = 0.95
) -> Summary | None:
    """Summarise value − baseline over their common keys (seeds); None without common keys.

    The effect of a seed common to a pair cancels, so the interval is usually narrower than those of the two means.

    >>> paired({0: 0.93, 1: 0.90}, {0: 0.92, 1: 0.89}).mean
    0.010000000000000009
    """
    both = [key for key in values if key in baseline]
    return summarise([values[key] - baseline[key] for key in both], confidence) if both else None


def front(costs: Sequence[float], gains: Sequence[float]) -> list[bool]:
    """Tell for each point whether it is on the Pareto front: none is as good in cost and gain and better in one.

    >>> front([1, 2, 3], [0.8, 0.7, 0.9])
    [True, False, True]
    """
    cost, gain = np.asarray(costs, dtype=float), np.asarray(gains, dtype=float)
    no_worse = (cost[:, None] <= cost) & (gain[:, None] >= gain)
    better = (cost[:, None] < cost) | (gain[:, None] > gain)
    return [bool(each) for each in np.logical_not((no_worse & better).any(0)).tolist()]
