"""Quantities that criteria need and only the model can tell, such as gradients.

A quantity is a function whose positional parameters name what it needs (fields of `QuantitySource`) and whose
keyword-only parameters are its options. Registered by `quantity`, it can be named by formulas among their parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.criteria.registry import CRITERIA, QUANTITIES

CalibrationBatches: TypeAlias = Iterable[tuple[Any, Tensor | None]]
"""Calibration data: pairs of what the model takes (a tensor, or a dict of keywords) and its labels, int64 [N].

Labels are None where the model computes its own loss, as those of transformers do from `labels` among the keywords.
"""


@dataclass(frozen=True)
class QuantitySource:
    """All that something may be measured on; a quantity's positional parameters are fields of it.

    `tensors` are the parameters to score, by name, and `seed` is for measurements that draw at random.
    """

    model: nn.Module
    tensors: Mapping[str, Tensor]
    data: CalibrationBatches | None = None
    example_inputs: Any = None
    seed: int = 0


MISSING_SOURCE = {
    "data": "{quantity} on some data: pass batches of inputs and labels as data=",
    "example_inputs": "example inputs, whose shapes the model runs on: pass them after the model",
}
"""What to say where a source is needed and there is none."""


def sources(criterion: str) -> frozenset[str]:
    """Return what the quantities of `criterion` are measured on: names of fields of `QuantitySource`.

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
    """Measure what the formula of `criterion` needs: quantity → name → tensor; nothing where weights suffice.

    `options` are the criterion's; each quantity gets those that are its own. The model is left as it was. Raises
    `InputError` where data or example inputs are needed and there are none.
    """
    entry = CRITERIA[criterion]
    source = QuantitySource(model, tensors, data, example_inputs, seed)
    if data is not None and any("data" in QUANTITIES[each].needs for each in entry.measures):
        source = QuantitySource(
            model, tensors, list(data), example_inputs, seed
        )  # some are measured in several passes
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
    return entry.measure(
        *(getattr(source, need) for need in entry.needs),
        **{name: value for name, value in options.items() if name in entry.options},
    )
