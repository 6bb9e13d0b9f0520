"""Budgets: the amount at which a model costs a given fraction of its present cost.

The symbolic cost is exact for every cut, so the amount is found by bisection, and units are put back while they fit.
A latency budget is met by measurement of real smaller models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.progress import track
from secateur.core.registry import Registry, unknown
from secateur.graph import cost
from secateur.graph.cut import Cut
from secateur.graph.groups import Groups
from secateur.pruning.allocate_units import UnitMasks

BUDGET_COSTS: Registry[Callable[[Cut], int]] = Registry("budget")
BUDGET_COSTS.add("params", cost.parameters)
BUDGET_COSTS.add("macs", cost.macs)

BISECTION_STEPS = 24
"""Bisection steps over amounts in [0, 1]: a resolution of 2⁻²⁴."""

TRIALS = 8
"""Smaller models made and timed to meet a latency."""

CLOSE = 0.005
"""Shortfall of a cut below its budget, as a fraction of the budget, above which units are put back."""


class Cutter(Protocol):
    """Masks of units for an amount, and cuts for masks of units."""

    def masks(self, amount: float) -> UnitMasks:
        """Return group name → boolean [units], True for kept units."""

    def cut(self, masks: UnitMasks) -> Cut:
        """Return the cut of these masks."""

    def restored(self, masks: UnitMasks) -> Iterator[UnitMasks]:
        """Yield, for each group that lost units, the masks with the most important removed unit kept again."""


@dataclass(frozen=True)
class Budget:
    """At most `fraction` of the present cost in `kind`, a name from `BUDGET_COSTS`."""

    kind: str
    fraction: float


@dataclass(frozen=True)
class LatencyBudget:
    """At most `milliseconds` per forward pass of `batch` samples on this machine, with torch's present threads."""

    milliseconds: float
    batch: int = 1


def read(budget: Mapping[str, float]) -> Budget | LatencyBudget:
    """Read {"macs": 0.5}, {"params": 0.5} or {"latency_ms": 3.5, "batch": 1}.

    Raises `InputError` for an unknown kind, a fraction outside (0, 1] or a latency that is not positive.
    """
    if not isinstance(budget, Mapping):
        raise InputError('A budget names one cost, such as {"macs": 0.5}.')
    if "latency_ms" in budget:
        milliseconds, batch = budget["latency_ms"], budget.get("batch", 1)
        finite = all(isinstance(each, int | float) and math.isfinite(each) for each in (milliseconds, batch))
        if not finite or set(budget) - {"latency_ms", "batch"} or milliseconds <= 0 or batch < 1 or batch % 1:
            raise InputError(
                'A latency budget is {"latency_ms": 3.5, "batch": 1}: positive milliseconds, a whole batch.'
            )
        return LatencyBudget(float(milliseconds), int(batch))
    if len(budget) != 1:
        raise InputError('A budget names one cost, such as {"macs": 0.5}.')
    kind, fraction = next(iter(budget.items()))
    if kind not in BUDGET_COSTS:
        raise InputError(unknown("budget", str(kind), [*BUDGET_COSTS, "latency_ms"]))
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise InputError(
            f"The budget {kind}={fraction!r} is no fraction of the present cost: give 0.5 to halve it."
        )
    return Budget(kind, float(fraction))


def per_cost(
    groups: Groups, scores: Mapping[str, Tensor], budget: float | Budget | LatencyBudget
) -> dict[str, Tensor]:
    """Return scores divided by the cost of a unit of the group, as a fraction of the model's whole cost.

    The cost of a unit is the saving when one unit of its group is removed alone: in MACs, or in the cost of the
    budget.
    """
    count = BUDGET_COSTS[budget.kind if isinstance(budget, Budget) else "macs"]
    whole = count(Cut.of(groups.coupling, []))
    divided = {}
    for group in groups:
        if group.name in scores:
            stay = np.arange(group.units) > 0
            saved = whole - count(Cut.of(groups.coupling, [(group, stay)]))
            divided[group.name] = scores[group.name] * whole / max(1, saved)
    return divided


def meet_latency(budget: LatencyBudget, cutter: Cutter, time: Callable[[Cut], float]) -> Cut:
    """Return the smallest cut found whose measured time keeps the budget.

    `time` makes the smaller model of a cut and measures it, in milliseconds. The amount is found by bisection over
    real models. Raises `InputError` if even the largest cut takes longer.
    """
    low, high = 0.0, 1.0
    best = cutter.cut(cutter.masks(high))
    fastest = time(best)
    if fastest > budget.milliseconds:
        raise InputError(
            f"The budget of {budget.milliseconds:g} ms can't be met: with everything cut that may be, a pass "
            f"takes {fastest:.3g} ms; keep fewer layers, or raise the budget."
        )
    for _ in track(range(TRIALS), "latency", TRIALS):
        middle = (low + high) / 2
        trial = cutter.cut(cutter.masks(middle))
        if time(trial) > budget.milliseconds:
            low = middle
        else:
            high, best = middle, trial
    return best


def meet(budget: Budget, cutter: Cutter) -> Cut:
    """Return a cut that costs no more than the budget, and as near to it as whole units allow.

    The amount is found by bisection; then units are put back, one at a time, as long as they fit. Raises
    `InputError` if even the largest cut costs more.
    """
    count = BUDGET_COSTS[budget.kind]
    whole = count(cutter.cut({name: torch.ones_like(mask) for name, mask in cutter.masks(0.0).items()}))
    target = budget.fraction * whole
    masks = cutter.masks(1.0)
    least = count(cutter.cut(masks))
    if least > target:
        raise InputError(
            f"The budget {budget.kind}={budget.fraction:g} can't be met: with everything cut that may be, "
            f"{least / whole:.3f} is left; keep fewer layers, raise the budget or max_amount, or lower round_to."
        )
    low, high = 0.0, 1.0
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        trial = cutter.masks(middle)
        if count(cutter.cut(trial)) > target:
            low = middle
        else:
            high, masks = middle, trial
    cost_now = count(cutter.cut(masks))
    while cost_now < (1 - CLOSE) * target:
        fitting = [(count(cutter.cut(more)), more) for more in cutter.restored(masks)]
        fitting = [(cost, more) for cost, more in fitting if cost_now < cost <= target]
        if not fitting:
            break
        cost_now, masks = max(fitting, key=lambda pair: pair[0])
    return cutter.cut(masks)
