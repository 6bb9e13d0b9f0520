"""Budgets: how much must go for a model to cost a given fraction of what it does.

The symbolic cost says what any cut costs, so the amount that meets a budget is found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from secateur.errors import InputError
from secateur.graph import cost
from secateur.graph.cut import Cut
from secateur.registry import Registry

COSTS: Registry[Callable[[Cut], int]] = Registry("budget")
COSTS.add("params", cost.parameters)
COSTS.add("macs", cost.macs)

STEPS = 24
"""Bisection steps: amounts are told apart to 2⁻²⁴."""


@dataclass(frozen=True)
class Budget:
    """`fraction` of the present cost in `kind` (a name from `COSTS`) may be left."""

    kind: str
    fraction: float

    @classmethod
    def of(cls, budget: Mapping[str, float]) -> Budget:
        """Read {"macs": 0.5}. Raises `InputError` for an unknown kind or a fraction outside (0, 1]."""
        if len(budget) != 1:
            raise InputError('A budget names one cost, such as {"macs": 0.5}.')
        kind, fraction = next(iter(budget.items()))
        COSTS[kind]
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise InputError(
                f"The budget {kind}={fraction!r} is no fraction of the present cost: give 0.5 to halve it."
            )
        return cls(kind, float(fraction))


def meet(budget: Budget, cut_at: Callable[[float], Cut]) -> Cut:
    """Return the cut, of those `cut_at` makes of amounts, whose cost is nearest to the budget.

    Raises `InputError` where even the largest cut costs more.
    """
    count = COSTS[budget.kind]
    target = budget.fraction * count(cut_at(0.0))
    low, high = 0.0, 1.0
    least = cut_at(1.0)
    if count(least) > target * 1.01:
        share = count(least) / count(cut_at(0.0))
        raise InputError(
            f"The budget {budget.kind}={budget.fraction:g} can't be met: with everything cut that may be, "
            f"{share:.3f} is left; keep fewer layers, or raise the budget or max_amount."
        )
    best = least
    for _ in range(STEPS):
        middle = (low + high) / 2
        trial = cut_at(middle)
        best = min(best, trial, key=lambda cut: abs(count(cut) - target))
        if count(trial) > target:
            low = middle
        else:
            high = middle
    return best
