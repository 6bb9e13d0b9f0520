"""Kinds of a study's numbers, by name: costs, fractions, and their notation."""

from __future__ import annotations

import math

from secateur.core.tables import NUMBER, Format, percent

FRACTIONS = ("top1", "top5", "achieved", "requested", "cut")
LOWER_IS_BETTER = ("loss", "error", "seconds", "parameters", "nonzero", "macs", "bytes_compressed")
HIGHER_IS_BETTER = (*FRACTIONS, "compression", "speedup", "spearman", "kendall", "pairs")
"""Names of fractions; name endings of numbers of which lower is better; names of numbers of which higher is."""


def is_fraction(name: str) -> bool:
    """Whether a number, as "step.number", is a fraction."""
    return _last(name) in FRACTIONS


def is_cost(name: str, unknown: bool = False) -> bool:
    """Whether lower is better for a number, as "step.number"; `unknown` (default False) for an unknown name.

    >>> is_cost("retrain.loss"), is_cost("connect.barrier.test_error"), is_cost("retrain.compression", unknown=True)
    (True, True, False)
    """
    if _last(name) in HIGHER_IS_BETTER:
        return False
    return _last(name).endswith(LOWER_IS_BETTER) or unknown


def written(name: str) -> Format:
    """Return the format of a mean and its deviation: "91.43 ± 0.12 %", "2.3041 ± 0.0016"."""

    def write(mean: float, deviation: float | None = None) -> str:
        if is_fraction(name):
            return percent(mean) if deviation is None else f"{100 * mean:.2f} ± {percent(deviation)}"
        if not deviation:
            return NUMBER.write(mean) + ("" if deviation is None else " ± 0")
        return f"{_places(mean, deviation)} ± {_places(deviation, deviation)}".replace("-", "−")

    return Format(write)


def difference(name: str) -> Format:
    """Return the format of a difference and its interval: "+0.80 (+0.55 to +1.05)", of fractions in points."""

    def write(gap: float, low: float | None = None, high: float | None = None) -> str:
        ends = [gap] if low is None or high is None else [gap, low, high]
        width = ends[-1] - ends[-2] if len(ends) > 1 else 0.0
        first, *others = (
            f"{100 * end:+.2f}" if is_fraction(name) else _places(end, width or abs(gap), "+") for end in ends
        )
        return (f"{first} ({' to '.join(others)})" if others else first).replace("-", "−")

    return Format(write)


def _places(value: float, spread: float, sign: str = "") -> str:
    """Return a number with the decimals that give its spread two digits."""
    places = 1 - math.floor(math.log10(spread)) if spread and math.isfinite(spread) else 2
    return f"{value:{sign},.{max(0, places)}f}" if places <= 9 else f"{value:{sign}.4g}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]
