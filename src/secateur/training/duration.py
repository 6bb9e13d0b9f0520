"""Spans of training: "2ep", "500it" or "3%"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from secateur.core.errors import InputError

DURATION_UNITS = ("ep", "it", "%")
FORM = re.compile(r"(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*(ep|it|%)?")
LONGEST_SPAN = 1e12
"""The largest number in a span of training."""


@dataclass(frozen=True)
class Duration:
    """A span of training: `value` epochs ("ep"), iterations ("it") or percent of the whole run ("%")."""

    value: float
    unit: str

    @classmethod
    def parse(cls, text: str | int | float) -> Duration:
        """Read "2ep", "500it", "3%" or a bare number of epochs. Raises `InputError` for anything else.

        >>> Duration.parse("500it").iterations(per_epoch=100, total=1000)
        500
        """
        match = FORM.fullmatch(str(text).strip())
        if match is not None and float(match[1]) > LONGEST_SPAN:
            raise InputError(
                f"No training lasts {_short(str(text))}: write a span of at most {LONGEST_SPAN:g}."
            )
        if match is None:
            raise InputError(
                f"'{_short(str(text))}' is no span of training: write 2ep (epochs), 500it (iterations) or 3%."
            )
        return cls(float(match[1]), match[2] or "ep")

    def iterations(self, per_epoch: int, total: int) -> int:
        """Return the span in iterations, rounded, from the iterations of an epoch and of the whole run."""
        return round(self.value * {"ep": per_epoch, "it": 1, "%": total / 100}[self.unit])

    def __str__(self) -> str:
        return f"{self.value:.15g}{self.unit}"


def _short(text: str) -> str:
    """Return a text cut off after 40 characters."""
    return text if len(text) <= 40 else f"{text[:39]}…"
