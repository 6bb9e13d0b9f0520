"""The levels of a search on a given model, checked before the first training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from secateur.core.errors import InputError
from secateur.criteria import CRITERIA
from secateur.lottery.cutting import check, multiples
from secateur.lottery.levels import RATE, pace
from secateur.lottery.subnetwork import subnetwork
from secateur.sparsity.granularity import parse
from secateur.sparsity.targets import prunable

DEFAULT_TARGETS: Mapping[str, Sequence[str]] = {"include": ("weights",), "keep": (), "layers": ()}


def plan(
    model: nn.Module,
    *,
    rate: float | None = None,
    levels: int | None = None,
    left: float | None = None,
    layer_rates: Mapping[str, float] | None = None,
    **how: Any,
) -> tuple[float, list[float]]:
    """Return the rate and the levels of a search, as `pace` does; `how` are other arguments of `subnetwork`.

    A pattern N:M is one level. Raises `InputError` for invalid arguments, or a last level that leaves too little.

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
    elif pattern.removes:
        found = pace({1.0: 1}, rate, levels, left)  # units have one rate, for any number of them
    else:
        targets = prunable(model, *(how.get(key, default) for key, default in DEFAULT_TARGETS.items()))
        sizes = Counter[float]()
        for name, multiple in multiples(targets, layer_rates or {}).items():
            sizes[multiple] += pattern.entries(tuple(targets[name].shape))
        found = pace(sizes, rate, levels, left)
    p, steps = found
    _check_last_level(model, rate=p, level=steps[-1], layer_rates=layer_rates, **how)
    return found


def _check_last_level(model: nn.Module, **how: Any) -> None:
    """Make the last cut on the untrained model, for its errors.

    So a last level that leaves too little is refused before the first training.
    """
    kind = parse(how.get("granularity", "weight"))
    CRITERIA[how.get("criterion", "magnitude")].check(str(kind), {})
    shared = ["rate", "level", "layer_rates", "granularity", "scope", "include", "keep", "layers"]
    shared += ["example_inputs"] if kind.removes else []
    subnetwork(model, **{name: how[name] for name in shared if name in how})
