"""Schedules of the amount during training, and checks of their options."""

from __future__ import annotations

from secateur.core.errors import InputError
from secateur.sparsity.masks import Masks


def cubic(
    step: int, steps: int, final: float, *, initial: float = 0.0, begin: float = 0.0, end: float = 1.0
) -> float:
    """Return the amount after `step` of `steps` steps (Zhu & Gupta 2018, eq. 1).

    s_t = s_f + (s_i − s_f) (1 − (t − t₀)/(t₁ − t₀))³ between t₀ = `begin` · steps and t₁ = `end` · steps, held at
    s_i before (warm-up) and at s_f after (cool-down).

    >>> [round(cubic(step, 4, 0.8), 4) for step in range(5)]
    [0.0, 0.4625, 0.7, 0.7875, 0.8]
    """
    first, last = begin * steps, end * steps
    if step >= last:
        return final
    if step <= first:
        return initial
    return final + (initial - final) * (1 - (step - first) / (last - first)) ** 3


def already_cut(masks: Masks, scope: str) -> float:
    """Return the smallest amount, spread by `scope`, that includes all cuts of `masks`."""
    if scope != "local":
        return masks.sparsity
    return max(Masks({name: mask}).sparsity for name, mask in masks.items())


def check_span(begin: float, end: float) -> None:
    """Raise `InputError` unless 0 ≤ begin ≤ end ≤ 1."""
    if not 0 <= begin <= end <= 1:
        raise InputError(
            f"Cutting can't go on from {begin} to {end} of the steps: both are fractions, 0 ≤ begin ≤ end ≤ 1."
        )


def check_every(every: int) -> None:
    """Raise `InputError` unless `every` is a whole number from 1."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise InputError(f"every is {every!r}: give a whole number of steps from 1, such as 100.")
