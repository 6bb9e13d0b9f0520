"""Prune a model: score what could go, spread the amount, cut, prove.

The one public function hands the settings to the pipeline of their granularity. Weights and patterns are cut by masks
(`secateur.pruning.weights`), channels and heads out of the tensors (`secateur.pruning.units`), whole layers are
bypassed (`secateur.pruning.layers`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from secateur.core.registry import Registry
from secateur.criteria import CalibrationBatches
from secateur.measure.inputs import ModelInputs
from secateur.pruning.layers import skip_layers
from secateur.pruning.result import Pruned
from secateur.pruning.settings import Settings
from secateur.pruning.units import prune_units
from secateur.pruning.weights import prune_weights

Road: TypeAlias = Callable[[nn.Module, ModelInputs | None, Settings], Pruned]
ROADS: Registry[Road] = Registry("granularity")
"""Kind of granularity → what cuts it."""
for _kind, _road in {
    "weight": prune_weights,
    "n:m": prune_weights,
    "channel": prune_units,
    "head": prune_units,
    "layer": skip_layers,
}.items():
    ROADS.add(_kind, _road)


def prune(
    model: nn.Module,
    example_inputs: ModelInputs | None = None,
    *,
    amount: float | None = None,
    budget: Mapping[str, float] | None = None,
    granularity: str = "weight",
    criterion: str = "magnitude",
    scope: str = "global",
    include: str | Sequence[str] = ("weights",),
    keep: str | Sequence[str] | None = (),
    layers: str | Sequence[str] | None = (),
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
    timed: bool = False,
    seed: int = 0,
    inplace: bool = False,
    **options: Any,
) -> Pruned:
    """Cut the least important of `model` and return the pruned model.

    Args:
        model: any module; left as it is unless `inplace`.
        example_inputs: what its forward takes: a tensor, a tuple of arguments or a dict of keywords. Needed for
            channels and heads, which are found by running the model, and for criteria such as synflow.
        amount: fraction to remove of the prunable weights or units, in [0, 1]; exactly round(amount · n) go. A
            pattern N:M fixes it, so it must be left out there.
        budget: instead of amount, the fraction of the present cost to leave, {"macs": 0.5} or {"params": 0.5}, or
            the time one pass may take on this machine, {"latency_ms": 3.5, "batch": 1}.
        granularity: "weight" or a pattern such as "2:4" (keep 2 of every 4 along the input dimension), which set
            weights to zero; "channel", "head" or "layer" (residual blocks), which make the model smaller.
        criterion: a name from `secateur.CRITERIA`; `options` are the criterion's own (such as `norm="l2"`).
        scope: "global", "local", "erk" or "lamp" for weights; "global", "local" or "isomorphic" for units. A
            pattern is always local.
        include: roles of parameters that may be cut: weights, biases, norms, embeddings, others, or all. For
            granularity weight and patterns.
        keep: names or globs of parameters or modules to leave alone.
        layers: names or globs; when given, only these are cut.
        masks: earlier cuts; they stay cut and count towards `amount`. Under a pattern they count as the lowest,
            so that a group keeps fewer than N only where fewer were left.
        max_amount: the largest fraction of one group of units that may go; one unit always stays.
        round_to: keep the nearest multiple of so many units, rather more, in every group that has more.
        reduction: how a unit's tensors are brought together: "mean" over all its scores, "sum", "max" of the
            tensors' means, "first" (only what makes the unit).
        normalization: what a group's scores are divided by before groups are compared: their "mean", "max" or "l2"
            norm, or "none".
        per_cost: divide scores by what a unit costs, in MACs or in what the budget counts, so that what goes first is
            what matters least for what it saves.
        compensation: what makes up for what goes, a name from `secateur.compensation.COMPENSATIONS`; "drop": nothing
            does. Its own `options` are told from the criterion's by their names.
        correct: take back what the cut does to means and variances inside the model, in batch normalisations and
            biases; when left out, where units go and data is given, except by criteria of untrained models.
        rounds: score what is left in so many rounds, each of which cuts a part. When left out, 1 for units, and for
            weights and patterns the criterion's own number: 100 for synflow, 1 for most.
        schedule: densities after the rounds: "exponential", d^(k/n), or "linear".
        allow_empty: let a tensor lose all its weights. Otherwise each keeps its highest-scored one, except in the
            scope local, and another weight goes instead.
        data: batches of (inputs, labels), for a criterion that needs more than weights, such as taylor, for a
            compensation that is fitted, and for corrections.
        verify: prove that the smaller model computes what the large one does without the removed units.
        timed: time a pass of the model and of the smaller one, by turns, on the example inputs; takes a second.
        seed: for criteria that draw at random.
        inplace: prune `model` itself instead of a copy.

    Raises:
        InputError: for an argument that makes no sense.
        ModelError: for a model with nothing to prune or with NaN weights; for units, also one that can't run on
            the example inputs.
        VerificationError: where the smaller model computes something else.

    >>> result = prune(nn.Linear(4, 2), amount=0.5)
    >>> result.masks.pruned
    4
    """
    settings = Settings.of(
        granularity=granularity,
        criterion=criterion,
        scope=scope,
        amount=amount,
        budget=budget,
        include=include,
        keep=keep,
        layers=layers,
        masks=masks or None,
        max_amount=max_amount,
        round_to=round_to,
        reduction=reduction,
        normalization=normalization,
        per_cost=per_cost,
        compensation=compensation,
        correct=correct,
        rounds=rounds,
        schedule=schedule,
        allow_empty=allow_empty,
        data=data,
        verify=verify,
        timed=timed,
        seed=seed,
        inplace=inplace,
        options=options,
    )
    settings.check()
    return ROADS[settings.granularity.kind](model, example_inputs, settings)
