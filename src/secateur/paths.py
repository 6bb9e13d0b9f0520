"""How the density falls over the rounds of a cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from secateur.registry import Registry

Path: TypeAlias = Callable[[float, float, float], float]
PATHS: Registry[Path] = Registry("schedule of rounds")
"""Name → density after the fraction t of the rounds, from one density to another."""


@PATHS.register("exponential")
def exponential(start: float, end: float, t: float) -> float:
    """The same fraction of what is left goes in every round: start · (end / start)^t."""
    return start * (end / start) ** t if start else 0.0


@PATHS.register("linear")
def linear(start: float, end: float, t: float) -> float:
    """As many go in every round: start + (end − start) · t."""
    return start + (end - start) * t
