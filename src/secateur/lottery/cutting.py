"""The cut between two levels: the fraction p of the remaining weights, by any criterion, at a rate per layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.options import check_least
from secateur.core.registry import Registry
from secateur.criteria import CalibrationBatches
from secateur.lottery.levels import check_rate, left_of
from secateur.measure.inputs import ModelInputs
from secateur.pruning.api import prune
from secateur.sparsity.granularity import parse
from secateur.sparsity.masks import Masks
from secateur.sparsity.targets import matches, prunable

LAYER_KINDS: Registry[Callable[[str, Mapping[str, Tensor]], bool]] = Registry("kind of layer")
"""Kind → predicate (name, targets), `targets` being all prunable tensors in the model's order."""
LAYER_KINDS.add("conv", lambda name, targets: targets[name].ndim > 2)
LAYER_KINDS.add("linear", lambda name, targets: targets[name].ndim == 2)
LAYER_KINDS.add("output", lambda name, targets: name == list(targets)[-1])


def multiples(targets: Mapping[str, Tensor], layer_rates: Mapping[str, float]) -> dict[str, float]:
    """Return each tensor's multiple of the rate: the one in `layer_rates`, by default 1.

    `layer_rates` maps layers to multiples: by name or glob, or by kind: "conv", "linear", or "output", the last
    tensor in the model's order. Of several entries for a tensor the last one counts. Raises `InputError` for an entry
    without a tensor, and for a multiple that is negative or no number.

    >>> multiples({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, {"output": 0.5})
    {'a': 1.0, 'b': 0.5}
    """
    found = dict.fromkeys(targets, 1.0)
    for layer, multiple in layer_rates.items():
        check_least(f"multiple of the rate for {layer}", multiple, 0.0)
        meant = (
            LAYER_KINDS[layer] if layer in LAYER_KINDS else lambda name, _, layer=layer: matches(name, layer)
        )
        names = [name for name in targets if meant(name, targets)]
        if not names:
            raise InputError(
                f"No layer that may be cut is '{layer}': name one, a glob, {', '.join(LAYER_KINDS)}."
            )
        found |= dict.fromkeys(names, float(multiple))
    return found


def cut(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    *,
    rate: float,
    level: float,
    layer_rates: Mapping[str, float] | None = None,
    granularity: str = "weight",
    criterion: str = "magnitude",
    scope: str = "global",
    include: str | Sequence[str] = ("weights",),
    keep: str | Sequence[str] | None = (),
    layers: str | Sequence[str] | None = (),
    example_inputs: ModelInputs | None = None,
    data: CalibrationBatches | None = None,
    seed: int = 0,
    **options: Any,
) -> Masks:
    """Return the masks of a level, which cut the least important weights left by `masks`; the model is unchanged.

    Every prunable tensor has a mask, even one with the multiple 0 or that no pattern fits. After level t, layers with
    the multiple r of the `rate` p have lost round((1 − (1 − r p)^t) n) of their n weights, or blocks. Layers of one
    multiple are ranked together, by the `scope`. A pattern N:M cuts its own fraction at once. The other arguments and
    the errors are those of `secateur.prune`; `InputError` is also raised for a level that leaves less than a weight per
    layer or more than `masks` have left, for units, and for `layer_rates` of a pattern.

    >>> cut(nn.Linear(10, 10), rate=0.2, level=2).pruned
    36
    """
    how = {
        "granularity": granularity, "criterion": criterion, "scope": scope, "include": include, "keep": keep,
        "data": data, "seed": seed, **options,
    }  # fmt: skip
    targets = prunable(model, include, keep, layers)
    found = Masks({name: torch.ones_like(tensor, dtype=torch.bool) for name, tensor in targets.items()})
    found &= masks or {}
    check(granularity, layer_rates)
    kind = parse(granularity)
    if kind.removes:
        raise InputError(
            f"Masks are of weights, and a cut of {granularity}s makes a smaller model: call lottery.subnetwork for one."
        )
    if kind.amount is not None:
        return prune(model, example_inputs, masks=found, layers=layers, **how).masks
    by_layer = multiples(targets, layer_rates or {})
    check_rate(rate, max(by_layer.values()))
    for multiple in sorted(set(by_layer.values()) - {0.0}, reverse=True):
        names = [name for name, own in by_layer.items() if own == multiple]
        amount = 1 - left_of(rate, multiple, level)
        size = sum(kind.entries(tuple(targets[name].shape)) for name in names)
        alive, stays = sum(bool(found[name].any()) for name in names), size - round(amount * size)
        if stays < alive:
            raise InputError(
                f"Level {level:g} at the rate {rate:g} leaves fewer weights ({stays}) than layers ({alive}): go less "
                "far, by fewer levels (or a lower one), more left, or a smaller rate."
            )
        gone = sum(int((~kind.alive(found[name])).sum()) for name in names)
        if gone > amount * size + len(names):
            raise InputError(
                f"{1 - gone / size:.2%} of the weights are left, and level {level:g} at the rate {rate:g} leaves "
                f"{1 - amount:.2%}: give a higher level."
            )
        found = prune(model, example_inputs, amount=amount, masks=found, layers=names, **how).masks
    return found


def check(granularity: str, layer_rates: Mapping[str, float] | None) -> None:
    """Raise `InputError` for `layer_rates` of units or of a pattern N:M."""
    kind = parse(granularity)
    if kind.removes and layer_rates:
        raise InputError(
            f"A {kind} is no part of one layer alone: leave layer_rates out, and name what is to stay with keep."
        )
    if kind.amount is not None and layer_rates:
        raise InputError(f"The pattern {kind} takes the same of every layer: leave layer_rates out.")
