"""Prune a model: score what could go, spread the amount, cut, prove.

The one public function follows the pipeline from left to right. Weights and patterns are cut by masks: targets →
scores → masks → applied to a copy of the model. Channels and heads are cut out: see `secateur.structured`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur import budget as budgets
from secateur import granularity as granularities
from secateur.allocate import check_amount
from secateur.criteria import CRITERIA, Batches
from secateur.errors import InputError, ModelError, reason_of
from secateur.graph.groups import Groups
from secateur.layers import skip_layers
from secateur.masks import Masks
from secateur.measure.inputs import Inputs, batch_size
from secateur.measure.latency import compare_latency
from secateur.shrink.plan import Plan, named_tensors
from secateur.shrink.verify import Verification
from secateur.structured import prune_units
from secateur.targets import as_names
from secateur.unstructured import prune_weights


@dataclass(frozen=True)
class Pruned:
    """What `prune` gives back.

    `model` is the pruned model (same class), `requested` and `achieved` the fraction of the prunable weights or
    units to remove and removed, `choices` the arguments that made it, `skipped` what was left alone and why.

    A cut of weights has `masks` of what was kept, and in `redistributed` how many weights more (or, below 0, fewer)
    a tensor kept than the scope alone would have left, so that none is empty.

    A cut of units has a `plan`, the `verification` that the smaller model computes what the large one computes
    without them, `parameters`, `macs`, `bytes` and, where asked for, `milliseconds` before and after, the `groups`
    the units belong to (None for whole layers), and in `kept` how many of each group are left. Its `masks` are those
    given, made smaller too.
    """

    model: nn.Module
    masks: Masks
    requested: float
    achieved: float
    choices: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    verification: Verification | None = None
    parameters: tuple[int, int] | None = None
    macs: tuple[int, int] | None = None
    bytes: tuple[int, int] | None = None
    milliseconds: tuple[float, float] | None = None
    groups: Groups | None = None
    kept: Mapping[str, int] = field(default_factory=dict)
    redistributed: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """Say in a few lines what was removed from where."""
        lines = [
            f"{self.choices['granularity']} pruning by {self.choices['criterion']}, scope {self.choices['scope']}",
        ]
        lines += self._smaller() if self.plan is not None else self._sparser()
        width = max((len(name) for name in self.skipped), default=0)
        lines += [f"  {name:<{width}}  left alone: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)

    def _sparser(self) -> list[str]:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        lines = [
            f"removed {self.masks.pruned:,} of {self.masks.total:,} prunable weights "
            f"({self.achieved:.2%}, requested {self.requested:.2%}); the model has {parameters:,} parameters",
        ]
        width = max(len(name) for name in self.masks)
        for name, mask in self.masks.items():
            kept = int(mask.count_nonzero())
            lines.append(
                f"  {name:<{width}}  kept {kept:>12,} of {mask.numel():>12,}  "
                f"({1 - kept / max(1, mask.numel()):.2%} cut)"
            )
        moved = ", ".join(f"{name} {count:+d}" for name, count in self.redistributed.items())
        return [*lines, *([f"  so that no tensor is empty: {moved}"] if moved else [])]

    def _smaller(self) -> list[str]:
        assert self.plan is not None
        assert self.parameters is not None
        assert self.macs is not None
        lines = [f"removed {self.achieved:.2%} of the units that may go (requested {self.requested:.2%})"]
        for what, pair in (("parameters", self.parameters), ("MACs", self.macs), ("bytes", self.bytes)):
            if pair is not None:
                before, after = pair
                lines.append(f"  {what:<12}{before:>16,} → {after:>16,}  (×{after / max(1, before):.3f})")
        if self.milliseconds is not None:
            slow, fast = self.milliseconds
            lines.append(f"  {'ms a pass':<12}{slow:>16.3f} → {fast:>16.3f}  (×{fast / slow:.3f})")
        lines.append(f"  verified: {self.verification or 'not asked for'}")
        changed = len(self.plan.attributes), len(self.plan.overrides), len(self.plan.standins)
        if any(changed):
            lines.append(
                f"  in code: {changed[0]} attributes changed, {changed[1]} sizes overridden, "
                f"{changed[2]} attention forwards replaced"
            )
        return lines


def prune(
    model: nn.Module,
    example_inputs: Inputs | None = None,
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
    rounds: int | None = None,
    schedule: str = "exponential",
    allow_empty: bool = False,
    data: Batches | None = None,
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
        rounds: for weights and patterns, score what is left in so many rounds, each of which cuts a part; the
            criterion's own number when left out: 100 for synflow, 1 for most. Units are cut in one.
        schedule: densities after the rounds: "exponential", d^(k/n), or "linear".
        allow_empty: let a tensor lose all its weights. Otherwise each keeps its highest-scored one, except in the
            scope local, and another weight goes instead.
        data: batches of (inputs, labels), for a criterion that needs more than weights, such as taylor.
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
    pattern = granularities.parse(granularity)
    CRITERIA[criterion].check(pattern.kind, options)
    choices: dict[str, Any] = {
        "granularity": granularity,
        "criterion": criterion,
        **options,
        "scope": scope,
        "amount": amount,
        "keep": as_names(keep),
        "layers": as_names(layers),
        "seed": seed,
    }
    if pattern.shrinks:
        if rounds is not None:
            raise InputError(
                f"Units are cut in one round: leave rounds out for the granularity {granularity}, or call prune again."
            )
        if example_inputs is None:
            raise InputError(
                f"The granularity {granularity} needs example inputs to find what belongs together: "
                "pass prune(model, example_inputs, …)."
            )
        if as_names(include) != ("weights",):
            raise InputError(
                f"The granularity {granularity} removes units from all that belongs to them: leave include out."
            )
        Masks(masks or {}).of(model)
        large, size = model, _bytes(model)
        if timed and inplace:
            raise InputError("Timing compares the model with the smaller one: leave inplace out.")

        def spent(small: nn.Module) -> dict[str, Any]:
            """Return bytes and time before and after."""
            times = _milliseconds(large, small, example_inputs) if timed else None
            return {"bytes": (size, _bytes(small)), "milliseconds": times}

        limits = {
            "budget": budget,
            "max_amount": max_amount,
            "round_to": round_to,
            "reduction": reduction,
            "normalization": normalization,
        }
        if granularity == "layer":
            for name, given in {"budget": budget, "round_to": round_to, "masks": masks}.items():
                if given:
                    raise InputError(f"The setting {name} has no meaning for whole layers: leave it out.")
            skipped = skip_layers(
                model,
                example_inputs,
                amount=check_amount(amount),
                criterion=criterion,
                keep=as_names(keep),
                layers=as_names(layers),
                check=verify,
                data=data,
                seed=seed,
                inplace=inplace,
                options=options,
            )
            gone, of = len(skipped.plan.skipped), len(skipped.blocks)
            return Pruned(
                skipped.model,
                Masks({}),
                requested=check_amount(amount),
                achieved=gone / of,
                choices=choices,
                plan=skipped.plan,
                verification=skipped.verification,
                parameters=skipped.parameters,
                macs=skipped.macs,
                **spent(skipped.model),
                kept={block.path: int(block.path not in skipped.plan.skipped) for block in skipped.blocks},
            )
        shrunk = prune_units(
            model,
            example_inputs,
            amount=_one_of(amount, budget),
            budget=None if budget is None else budgets.read(budget),
            granularity=granularity,
            criterion=criterion,
            scope=scope,
            keep=as_names(keep),
            layers=as_names(layers),
            max_amount=check_amount(max_amount),
            round_to=round_to,
            check=verify,
            data=data,
            seed=seed,
            inplace=inplace,
            reduction=reduction,
            normalization=normalization,
            options=options,
        )
        before, after = shrunk.units
        return Pruned(
            shrunk.model,
            Masks({name: shrunk.plan.slice(name, mask) for name, mask in (masks or {}).items()}),
            requested=amount if amount is not None else (before - after) / max(1, before),
            achieved=(before - after) / max(1, before),
            choices={**choices, **limits},
            skipped={
                each.name: f"{each.lock.reason} ({each.lock.at})"
                for each in shrunk.groups
                if each.lock is not None
            },
            plan=shrunk.plan,
            verification=shrunk.verification,
            parameters=shrunk.parameters,
            macs=shrunk.macs,
            **spent(shrunk.model),
            groups=shrunk.groups,
            kept=shrunk.kept,
        )
    for name, given in {"budget": budget, "max_amount": max_amount != 1.0, "round_to": round_to}.items():
        if given:
            raise InputError(
                f"The setting {name} is for granularities that make the model smaller: channel or head."
            )
    sparse = prune_weights(
        model,
        example_inputs,
        pattern,
        amount=amount,
        criterion=criterion,
        scope=scope,
        include=as_names(include),
        keep=as_names(keep),
        layers=as_names(layers),
        masks=masks,
        rounds=rounds,
        schedule=schedule,
        allow_empty=allow_empty,
        data=data,
        seed=seed,
        options=options,
    )
    pruned = model if inplace else _copy(model)
    sparse.masks.apply_(pruned)
    choices |= {
        "scope": scope if pattern.kind == "weight" else "local",
        "amount": sparse.requested,
        "include": as_names(include),
        "rounds": sparse.rounds,
        "schedule": schedule,
        "allow_empty": allow_empty,
    }
    return Pruned(
        pruned,
        sparse.masks,
        sparse.requested,
        sparse.achieved,
        choices,
        sparse.skipped,
        redistributed=sparse.redistributed,
    )


def _one_of(amount: float | None, budget: Mapping[str, float] | None) -> float | None:
    if (amount is None) == (budget is None):
        raise InputError(
            "Say how much to remove: either an amount such as 0.5, or a budget such as macs 0.5, not both."
        )
    return amount


def _bytes(model: nn.Module) -> int:
    """Return what a model's tensors take, shared ones once and lazy ones, which have no size yet, not at all."""
    tensors = (tensor for tensor in named_tensors(model).values() if not is_lazy(tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _milliseconds(large: nn.Module, small: nn.Module, example_inputs: Inputs) -> tuple[float, float]:
    """Time one pass of each by turns, in evaluation mode: medians."""
    batch = batch_size(example_inputs)
    times = compare_latency({"large": large, "small": small}, example_inputs, (batch,))
    return times["large"][0].median * 1e3, times["small"][0].median * 1e3


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} can't be copied ({reason_of(error)}): prune it itself, with inplace=True."
        ) from error
