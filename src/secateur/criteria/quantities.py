"""Measured quantities of criteria, such as gradients.

A quantity is a function whose positional parameters are fields of `QuantitySource` and whose keyword-only parameters
are its options. Registered by `quantity`, it is passed to every formula with a parameter of its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.seeds import same_draws
from secateur.criteria.registry import CRITERIA, QUANTITIES, Quantity

CalibrationBatches: TypeAlias = Iterable[tuple[Any, Tensor | None]]
"""Calibration data: pairs of the model's inputs (a tensor, or a dict of keywords) and labels, int64 [N].

Labels are None for a model that computes its own loss, as those of transformers do from the keyword `labels`.
"""


@dataclass(frozen=True)
class QuantitySource:
    """The inputs of a measurement; a quantity's positional parameters are fields of it.

    `tensors` are the parameters to score, by name, and `seed` (default 0) that of random measurements.
    """

    model: nn.Module
    tensors: Mapping[str, Tensor]
    data: CalibrationBatches | None = None
    example_inputs: Any = None
    seed: int = 0

    def measured(self, quantity: Quantity, options: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the values of a quantity; whatever draws random numbers meanwhile draws from `seed`."""
        with same_draws(self.seed, self.model):
            return quantity.measure(*(getattr(self, need) for need in quantity.needs), **options)


MISSING_SOURCE = {
    "data": "{quantity} on some data: pass batches of inputs and labels as data=",
    "example_inputs": "example inputs, whose shapes the model runs on: pass them after the model",
}
"""Field of `QuantitySource` → end of the error message if it is missing."""


def sources(criterion: str) -> frozenset[str]:
    """Return the fields of `QuantitySource` that the quantities of `criterion` need.

    >>> sorted(sources("taylor")), sorted(sources("magnitude"))
    (['data', 'model', 'tensors'], [])
    """
    return frozenset(
        source for quantity in CRITERIA[criterion].measures for source in QUANTITIES[quantity].needs
    )


def measured(
    criterion: str,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    data: CalibrationBatches | None = None,
    *,
    example_inputs: Any = None,
    seed: int = 0,
    **options: Any,
) -> dict[str, dict[str, Tensor]]:
    """Return the quantities of the formula of `criterion`: quantity → name → tensor; empty for weights alone.

    `options` are the criterion's; each quantity gets its own. The model does not change, nor do random states: code
    that draws numbers, of the model or of the data, draws from `seed`. Raises `InputError` for missing data or example
    inputs.
    """
    entry = CRITERIA[criterion]
    if data is not None and any("data" in QUANTITIES[each].needs for each in entry.measures):
        with same_draws(seed):
            data = list(data)  # some are measured in several passes
    source = QuantitySource(model, tensors, data, example_inputs, seed)
    return {
        quantity: _measured(criterion, quantity, source, {**entry.options, **options})
        for quantity in entry.measures
    }


def _measured(
    criterion: str, quantity: str, source: QuantitySource, options: Mapping[str, Any]
) -> dict[str, Tensor]:
    entry = QUANTITIES[quantity]
    for need in entry.needs:
        if need in MISSING_SOURCE and getattr(source, need) is None:
            raise InputError(
                f"The criterion {criterion} needs {MISSING_SOURCE[need].format(quantity=entry.called)}."
            )
    return source.measured(entry, {name: value for name, value in options.items() if name in entry.options})
