"""Prune a model: score, allocate, cut and verify, by the pipeline of the granularity.

Weights are set to zero by masks (`secateur.pruning.weights`), channels and heads are removed from the tensors
(`secateur.pruning.units`), residual blocks are bypassed (`secateur.pruning.layers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from secateur.core.errors import ModelError
from secateur.core.naming import unwrapped_name
from secateur.core.seeds import same_draws
from secateur.core.wrapped import unwrapped
from secateur.criteria import CalibrationBatches
from secateur.measure.examples import Examples
from secateur.measure.inputs import ModelInputs
from secateur.pruning.layers import skip_layers
from secateur.pruning.result import Pruned
from secateur.pruning.settings import DECLARED, Settings, documented
from secateur.pruning.units import prune_units
from secateur.pruning.weights import prune_weights
from secateur.sparsity.masks import Masks
from secateur.sparsity.plain import require_plain
from secateur.sparsity.targets import LayerNames, names_in, require_module


@documented
def prune(
    model: nn.Module,
    example_inputs: ModelInputs | None = None,
    *,
    amount: float | str | Mapping[Any, float] | None = None,
    units: Mapping[Any, Any] | None = None,
    budget: Mapping[str, float] | None = None,
    granularity: str = "weight",
    criterion: str = "magnitude",
    scope: str = "global",
    include: str | Sequence[str] = ("weights",),
    keep: LayerNames = (),
    layers: LayerNames = (),
    masks: Mapping[str, Tensor] | None = None,
    max_amount: float = 1.0,
    round_to: int | None = None,
    reduction: str = "mean",
    normalization: str = "mean",
    per_cost: bool = False,
    compensation: str = "drop",
    correct: bool | None = None,
    rounds: int | None = None,
    schedule: str = "exponential",
    allow_empty: bool = False,
    data: CalibrationBatches | None = None,
    verify: bool = True,
    other_sizes: bool = True,
    timed: bool = False,
    seed: int = 0,
    inplace: bool = False,
    **options: Any,
) -> Pruned:
    """Remove the least important weights, units or blocks of `model` and return the pruned model.

    Args:
        model: any module; left as it is unless `inplace`. Of one that is wrapped (DataParallel) or compiled, the
            module inside is pruned, and the result's model is to be wrapped or compiled anew.
        example_inputs: the arguments of its forward: a tensor, a tuple of arguments or a dict of keywords. Needed for
            channels, heads and layers, which are found by running the model, and for criteria such as synflow. Units
            are coupled and proved for several at once: a list of these, such as two resolutions, or a dict from methods
            of the model to what they take, `{"encode": x, "decode": z}`; costs are told of the first.
        {settings}
        options: options of the criterion and of the compensation, such as `norm="l2"`, assigned by their names.

    Raises:
        InputError: for an invalid argument.
        ModelError: for a model with nothing to prune or with NaN weights; for units, also one that can't run on
            the example inputs.
        VerificationError: if the smaller model computes other outputs than the large one without the removed units.

    >>> result = prune(nn.Linear(4, 2), amount=0.5)
    >>> result.masks.pruned
    4
    """
    given = {name: value for name, value in locals().items() if name in DECLARED}
    given |= {"keep": names_in(model, keep), "layers": names_in(model, layers)}
    for name in ("amount", "units"):
        if isinstance(given[name], Mapping):
            given[name] = {own: each for key, each in given[name].items() for own in names_in(model, key)}
    return prune_by(model, example_inputs, Settings.of(**given))


def prune_by(model: nn.Module, example_inputs: ModelInputs | None, settings: Settings) -> Pruned:
    """Prune `model` by `settings`; see `prune`. All random states of the caller are restored."""
    granularity = settings.granularity
    pipeline = prune_weights if granularity.zeroes else prune_units if granularity.grouped else skip_layers
    require_module(model)
    require_plain(model)
    if isinstance(model, DistributedDataParallel) and not granularity.zeroes:
        raise ModelError(
            "The model is wrapped for several processes: prune model.module, and wrap the result."
        )
    inner = unwrapped(model)
    if example_inputs is not None and not granularity.grouped:
        example_inputs = Examples.of(inner, example_inputs).first
    if settings.masks:
        settings = replace(settings, masks=Masks(settings.masks).named_as_in(inner))
    if inner is not model:
        settings = _inside(settings)
    # what comes out can be trained, wherever it was made
    with same_draws(settings.seed, inner), torch.inference_mode(False):
        result = pipeline(inner, example_inputs, settings)
    return replace(result, model=model) if settings.inplace else result


def _inside(settings: Settings) -> Settings:
    """Return settings with the names of layers as in the module inside of a wrapped model."""

    def names(given: Any) -> Any:
        return tuple(unwrapped_name(each) if isinstance(each, str) else each for each in given)

    def keys(given: Any) -> Any:
        named = isinstance(given, Mapping)
        return {unwrapped_name(name): each for name, each in given.items()} if named else given

    return replace(
        settings,
        keep=names(settings.keep),
        layers=names(settings.layers),
        amount=keys(settings.amount),
        units=keys(settings.units),
    )
