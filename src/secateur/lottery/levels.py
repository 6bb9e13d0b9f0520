"""The levels of a search: the rate p, the fraction of the remaining weights cut per level, and the number of levels.

After t levels a layer with the multiple r keeps (1 − r p)^t of its weights. The last t may be fractional, to leave
exactly the requested fraction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from secateur.core.errors import InputError

RATE = 0.2
"""Default rate (Frankle & Carbin 2019)."""
MOST_LEVELS = 1024
"""Largest number of levels; more are refused as a mistake."""


def left_of(rate: float, multiple: float, level: float) -> float:
    """Return the fraction of a layer left after level t, (1 − r p)^t, for the rate p and its multiple r.

    >>> round(left_of(0.2, 0.5, 2), 4)
    0.81
    """
    return math.pow(1 - multiple * rate, level)


def pace(
    sizes: Mapping[float, int],
    rate: float | None = None,
    levels: int | None = None,
    left: float | None = None,
) -> tuple[float, list[float]]:
    """Return the rate p and the levels t = 1, 2, … of a search.

    `sizes` maps multiples of the rate to numbers of prunable weights. Two of the other arguments are given: `rate`
    (default 0.2) and `levels`; or `rate` and `left`, whose last level is fractional so that exactly the fraction `left`
    remains; or `levels` and `left`, from which the rate follows. Raises `InputError` for another combination, numbers
    out of range, and a fraction `left` that can't be reached.

    >>> pace({1.0: 100}, rate=0.5, left=0.2)
    (0.5, [1.0, 2.0, 2.321928])
    """
    _check(sizes, rate, levels, left)
    most = max(sizes)

    def share(rate: float, level: float) -> float:
        kept = (size * left_of(rate, multiple, level) for multiple, size in sizes.items())
        return math.fsum(kept) / max(1, sum(sizes.values()))

    if left is None:
        assert levels is not None
        return rate or RATE, [float(level) for level in range(1, levels + 1)]
    spared = sizes.get(0.0, 0) / sum(sizes.values())
    if left <= spared:
        raise InputError(
            f"{left} of the weights can't be all that is left: {spared:.4f} are in layers with the rate 0."
        )
    if levels is not None:
        whole = levels
        found = _falling(lambda tried: share(tried, whole), left, 0.0, 1 / most)
        return found, [float(level) for level in range(1, levels + 1)]
    p = rate or RATE
    end = 1.0
    while share(p, end) > left:
        end *= 2
        if end > MOST_LEVELS:
            raise InputError(
                f"At a rate of {p} it takes more than {MOST_LEVELS} levels until {left} is left: choose others."
            )
    last = round(_falling(lambda level: share(p, level), left, 0.0, end), 6)
    return p, [*(float(level) for level in range(1, math.ceil(last))), last]


def _check(sizes: Mapping[float, int], rate: float | None, levels: int | None, left: float | None) -> None:
    if not any(size for multiple, size in sizes.items() if multiple > 0):
        raise InputError("No weight may go: every layer has the rate 0.")
    if levels is None and left is None:
        raise InputError("Say how far to go: levels=10, or left=0.02 for 2 % of the weights.")
    if rate is not None and levels is not None and left is not None:
        raise InputError("Of rate, levels and left two decide the third: leave one out.")
    if levels is not None and not 1 <= levels <= MOST_LEVELS:
        raise InputError(f"There can't be {levels} levels: give a number from 1 to {MOST_LEVELS}.")
    for name, value in (("rate", rate), ("left", left)):
        if value is not None and not 0 < value < 1:
            raise InputError(f"The {name} is {value}: give a fraction between 0 and 1, such as 0.2.")
    if levels is None or left is None:
        check_rate(rate or RATE, max(sizes))


def check_rate(rate: float, multiple: float) -> None:
    """Raise `InputError` if a level would cut a whole layer: rate · multiple ≥ 1."""
    if multiple * rate >= 1:
        raise InputError(
            f"A rate of {rate} times {multiple:g} takes all of a layer at once: give a lower one."
        )


def _falling(function: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Return x in low..high with function(x) = target, by bisection of a falling function."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > target else (low, middle)
    return (low + high) / 2
