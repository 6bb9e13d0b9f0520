"""Scores of a model's tensors by a criterion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.registry import Registry
from secateur.core.seeds import seed_of
from secateur.criteria.registry import CRITERIA
from secateur.sparsity.granularity import kind_of

PROVIDERS: Registry[Callable[[str, Tensor, int], Any]] = Registry("quantity for a criterion")
PROVIDERS.add("weight", lambda name, tensor, seed: tensor.detach())
PROVIDERS.add(
    "generator", lambda name, tensor, seed: torch.Generator().manual_seed(seed_of("criterion", seed, name))
)


def score(
    criterion: str,
    tensors: Mapping[str, Tensor],
    *,
    seed: int = 0,
    granularity: str = "weight",
    measured: Mapping[str, Mapping[str, Tensor]] | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Score every tensor by the registered `criterion`: name → scores of the tensor's shape, the lowest removed first.

    `measured` holds the quantities measured on the model (see `quantities`): quantity → name → tensor; `options` may
    hold their options too. A random criterion draws from (`seed`, name), so a layer's scores don't depend on the other
    layers. `granularity` (default "weight") selects the formula for weights or for units. Raises `InputError` for an
    unknown criterion, option or combination with `granularity`, for a formula with a parameter that is not provided,
    and for one that returns another shape.

    >>> score("magnitude", {"w": torch.tensor([-2.0, 1.0])})
    {'w': tensor([2., 1.])}
    """
    entry = CRITERIA[criterion]
    entry.check(granularity, options)
    own = {name: value for name, value in options.items() if name in entry.own}
    formula = entry.unit if kind_of(granularity).removes else entry.score
    scores = {}
    for name, tensor in tensors.items():
        needs = (
            measured[need][name] if measured and need in measured else PROVIDERS[need](name, tensor, seed)
            for need in entry.needs
        )
        scores[name] = formula(*needs, **own)
        if scores[name].shape != tensor.shape:
            raise InputError(
                f"The criterion {criterion} gave {name} scores of shape {list(scores[name].shape)}: "
                f"its formula must return one for each weight, {list(tensor.shape)}."
            )
    return scores
