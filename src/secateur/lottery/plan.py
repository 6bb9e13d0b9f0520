"""The levels of a search on a given model, found possible before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from secateur.errors import InputError
from secateur.granularity import parse
from secateur.lottery.cutting import check, multiples, rehearse
from secateur.lottery.pace import RATE, pace
from secateur.targets import prunable

TARGETS: Mapping[str, Sequence[str]] = {"include": ("weights",), "keep": (), "layers": ()}


def plan(
    model: nn.Module,
    *,
    rate: float | None = None,
    levels: int | None = None,
    left: float | None = None,
    layer_rates: Mapping[str, float] | None = None,
    **how: Any,
) -> tuple[float, list[float]]:
    """Return the rate and the levels of a search, as `pace` does; `how` are other arguments of `cut`.

    A pattern N:M is one level. Raises `InputError` for a search that makes no sense, or that ends with too little.

    >>> plan(nn.Linear(10, 10), levels=2)
    (0.2, [1.0, 2.0])
    """
    pattern = parse(how.get("granularity", "weight"))
    check(str(pattern), layer_rates)
    if pattern.amount is not None:
        if rate is not None or left is not None or levels not in (None, 1):
            raise InputError(
                f"The pattern {pattern} takes its own fraction at once: leave rate, levels and left out."
            )
        found: tuple[float, list[float]] = RATE, [1.0]
    else:
        targets = prunable(model, *(how.get(key, default) for key, default in TARGETS.items()))
        sizes = Counter[float]()
        for name, multiple in multiples(targets, layer_rates or {}).items():
            sizes[multiple] += targets[name].numel()
        found = pace(sizes, rate, levels, left)
    p, steps = found
    rehearse(model, rate=p, level=steps[-1], layer_rates=layer_rates, **how)
    return found
