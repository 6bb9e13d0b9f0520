"""Pruning of weights, blocks and patterns: targets → scores → masks, in one or several rounds.

A round measures and scores the model under the cuts of the earlier rounds, and cuts to the next amount of the
schedule; the last amount is exactly the requested one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compensation import Case
from secateur.core.computed import computed_tensors
from secateur.core.copying import duplicate
from secateur.core.errors import InputError
from secateur.core.progress import track
from secateur.criteria import CRITERIA, Calibration, CalibrationBatches, measured, score
from secateur.graph.couple import couple
from secateur.graph.trace import trace
from secateur.measure.inputs import ModelInputs
from secateur.pruning.allocate_weights import SCOPES, allocate, least_amount, redistributed
from secateur.pruning.compensate import make_up
from secateur.pruning.computed_weights import prune_computed
from secateur.pruning.iterative import PATHS
from secateur.pruning.result import Pruned
from secateur.pruning.settings import Settings
from secateur.shrink.plan import named_tensors
from secateur.sparsity.assigning import by_tensor
from secateur.sparsity.granularity import Granularity
from secateur.sparsity.masks import Masks
from secateur.sparsity.targets import left_alone, prunable, require_module

FEW = 4
"""Names in a sentence; the others are counted."""


def prune_weights(model: nn.Module, example_inputs: ModelInputs | None, settings: Settings) -> Pruned:
    """Cut the least important weights of `model`, or of a copy; see `secateur.prune`."""
    require_module(model)
    if computed_tensors(model):
        return prune_computed(model, example_inputs, settings, _prune_held)
    return _prune_held(model, example_inputs, settings, Masks({}))


def _prune_held(
    model: nn.Module, example_inputs: ModelInputs | None, settings: Settings, dead: Masks
) -> Pruned:
    """Cut the least important weights of a model that holds them as parameters, `dead` ones first."""
    criterion, granularity, seed, data = (
        settings.criterion,
        settings.granularity,
        settings.seed,
        settings.data,
    )
    own = settings.amounts
    entry, rule = CRITERIA[criterion], SCOPES[settings.scope if own is None else "local"]
    rounds = entry.rounds if settings.rounds is None else settings.rounds
    compensates, compensated = settings.compensation != "drop" or settings.corrects, dict[str, Any]()
    if data is not None and (rounds > 1 or compensates):
        data = Calibration.of(data)
    targets: Mapping[str, Tensor] = prunable(
        model, settings.include, settings.keep, settings.layers or tuple(own or ())
    )
    amounts = None if own is None else by_tensor(model, targets, own)
    targets = targets if amounts is None else {name: targets[name] for name in amounts}
    earlier = Masks(settings.masks or {})
    earlier.of(model)
    asked = {name: tuple(target.shape) for name, target in targets.items()}
    targets, skipped = _fitting(targets, granularity)
    missed = {name: asked[name] for name in skipped}
    if not settings.layers and own is None:
        skipped |= left_alone(model, settings.include, settings.keep)
    wanted = settings.requested if amounts is None else {name: amounts[name] for name in targets}
    weights = {name: t.detach().clone() for name, t in targets.items()} if entry.regrows else targets

    def scores(cut: Masks) -> dict[str, Tensor]:
        with _without(model, cut):
            found = measured(
                criterion,
                model,
                targets,
                data,
                example_inputs=example_inputs,
                seed=seed,
                **settings.criterion_options,
            )
            return score(
                criterion,
                weights,
                seed=seed,
                granularity=granularity.kind,
                measured=found,
                **settings.criterion_options,
            )

    cut_before = Masks({name: granularity.alive(earlier[name]) for name in targets if name in earlier})
    spent = {name: mask.numel() - int(mask.count_nonzero()) for name, mask in cut_before.items()}
    sizes = {name: granularity.entries(tuple(target.shape)) for name, target in targets.items()}
    shapes = {name: tuple(target.shape) for name, target in targets.items()}
    start = least_amount(rule.name, sizes, spent)
    if isinstance(wanted, Mapping):
        requested = sum(wanted[name] * size for name, size in sizes.items()) / max(1, sum(sizes.values()))
        stages = _own_stages(
            settings, rounds, wanted, {n: spent.get(n, 0) / max(1, sizes[n]) for n in wanted}
        )
    else:
        requested, stages = wanted, _stages(settings, rounds, start, entry.regrows)
    kept, ranked, already = Masks({}), dict[str, Tensor](), cut_before
    for stage, amount in track(stages, "rounds", len(stages)) if len(stages) > 1 else stages:
        already = cut_before if entry.regrows else kept & cut_before
        found = scores(_spread(granularity, kept, shapes) & earlier)
        ranked = {name: granularity.pooled(found.pop(name)) for name in targets}
        _rank_first(
            ranked, {name: granularity.alive(dead[name]) for name in targets if name in dead}, rule.name
        )
        share = partial(allocate, amount=amount, scope=rule.name, allow_empty=settings.allow_empty)
        kept = stage.masks(ranked, already, share)
    moved: dict[str, int] = {}
    if granularity.amount is None and not settings.allow_empty:
        moved = redistributed(kept, ranked, requested, rule.name, already)
    del ranked  # as large as the model that is copied next
    latest = _spread(granularity, kept, shapes)
    masks = latest & earlier
    pruned = model if settings.inplace and not compensates else duplicate(model, share=settings.inplace)
    masks.apply_(pruned)
    if compensates:
        masks, compensated = _compensated(model, pruned, masks, example_inputs, data, settings)
        if settings.inplace:
            pruned = _with_values_of(model, pruned)
    choices = settings.choices("include", "schedule", "allow_empty") | {
        "scope": rule.name if granularity.amount is None else "local",
        "amount": requested if own is None else dict(own),
        "rounds": rounds,
    }
    return Pruned(
        pruned,
        masks,
        requested,
        latest.sparsity,
        choices,
        skipped,
        redistributed=moved,
        compensated=compensated,
        notes=_shortfall(granularity, missed, latest),
    )


def _rank_first(scores: dict[str, Tensor], alive: Mapping[str, Tensor], scope: str) -> None:
    """Give the entries that are not `alive` scores below all others; at the scope lamp, which takes squares, 0."""
    if all(bool(mask.all()) for mask in alive.values()):
        return
    least = min((float(each.min()) for each in scores.values() if each.numel()), default=0.0)
    low = min(0.0, least) if scope == "lamp" else least - max(1.0, abs(least))
    for name, mask in alive.items():
        own = scores[name]
        lowest = max(low, torch.finfo(own.dtype).min)
        scores[name] = own.masked_fill(~mask.to(own.device).view(own.shape), lowest)


def _compensated(
    model: nn.Module,
    pruned: nn.Module,
    masks: Masks,
    example_inputs: ModelInputs | None,
    data: CalibrationBatches | None,
    settings: Settings,
) -> tuple[Masks, dict[str, Any]]:
    """Apply the compensation to the pruned model; return its masks afterwards and the record of the compensation."""
    calibration = None if data is None else Calibration.of(data)
    if example_inputs is None:
        example_inputs = next((inputs for inputs, _ in calibration or ()), None)
    if example_inputs is None:
        raise InputError(
            f"The compensation {settings.compensation} runs the model: pass prune(model, example_inputs, …)."
        )
    program = trace(model, example_inputs)
    earlier = Masks(settings.masks or {})
    case = Case(
        model,
        pruned,
        program,
        calibration,
        settings.seed,
        settings.corrects,
        masks=masks,
        earlier=earlier,
        granularity=settings.granularity,
    )
    record = make_up(case, couple(program), settings)
    masks = record.pop("masks", masks)
    masks.apply_(pruned)
    return masks, record


@contextmanager
def _without(model: nn.Module, cut: Masks) -> Iterator[None]:
    """Set cut weights to zero while the block runs, then restore them.

    A tensor whose cut weights are zero already is not copied. (`measure.inputs.masked` copies single weights, which
    needs less memory and much more time.)
    """
    lent: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for parameter, mask in cut.of(model):
            if bool(parameter.masked_fill(mask, 0).any()):
                lent.append((parameter, parameter.clone()))
                parameter.masked_fill_(~mask, 0)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, dense in lent:
                tensor.copy_(dense)


def _stages(
    settings: Settings, rounds: int, already: float, regrows: bool
) -> list[tuple[Granularity, float | Mapping[str, float]]]:
    """Return the granularity and the amount of each round; the last are the requested ones.

    Rounds in which a pattern cuts no further weight are left out, unless weights regrow.
    """
    granularity, requested, path = settings.granularity, settings.requested, PATHS[settings.schedule]
    fixed = granularity.amount is not None
    start = 1.0 if fixed else 1 - already
    steps = range(1, rounds) if fixed or requested > already else ()
    densities = [path(start, 1 - requested, step / rounds) for step in steps]
    stages: list[tuple[Granularity, float | Mapping[str, float]]]
    stages = [(granularity.stage(density), 1 - density) for density in densities]
    stages.append((granularity, requested))
    return stages if regrows or not fixed else [*{stage[0]: stage for stage in stages}.values()]


def _own_stages(
    settings: Settings, rounds: int, wanted: Mapping[str, float], already: Mapping[str, float]
) -> list[tuple[Granularity, float | Mapping[str, float]]]:
    """Return the granularity and the amount of each tensor of each round; the last are those wanted."""
    path, more = PATHS[settings.schedule], any(wanted[name] > already[name] for name in wanted)
    steps = (step / rounds for step in (range(1, rounds) if more else ()))
    early = [
        {
            name: 1 - path(1 - already[name], 1 - max(amount, already[name]), step)
            for name, amount in wanted.items()
        }
        for step in steps
    ]
    return [(settings.granularity, each) for each in (*early, wanted)]


def _spread(granularity: Granularity, kept: Masks, shapes: Mapping[str, tuple[int, ...]]) -> Masks:
    """Return masks of weights for masks of the entries of a granularity."""
    return Masks({name: granularity.spread(mask, shapes[name]) for name, mask in kept.items()})


def _fitting(
    targets: Mapping[str, Tensor], granularity: Granularity
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors that fit a granularity, and for each other one the reason."""
    reasons = {name: granularity.misfit(tuple(target.shape)) for name, target in targets.items()}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    fitting = {name: target for name, target in targets.items() if name not in skipped}
    if not fitting:
        name, reason = next(iter(skipped.items()))
        what = "granularity" if granularity.amount is None else "pattern"
        size = granularity.multiple
        hint = (
            f"; cut channels with round_to={size} before" if size > 1 and len(targets[name].shape) > 1 else ""
        )
        raise InputError(f"No layer fits the {what} {granularity}: {name} does not, {reason}{hint}.")
    return fitting, skipped


def _shortfall(
    granularity: Granularity, missed: Mapping[str, tuple[int, ...]], masks: Masks
) -> tuple[str, ...]:
    """Return the sentence on the layers that a pattern does not fit, name → shape; none if they matter little."""
    size = granularity.multiple
    whole = masks.total + sum(math.prod(shape) for shape in missed.values())
    wide = [name for name, shape in missed.items() if len(shape) > 1 and shape[1] > size]
    if not wide:
        return ()
    names = ", ".join(wide[:FEW]) + (f" and {len(wide) - FEW} more" if len(wide) > FEW else "")
    return (
        f"The pattern {granularity} does not fit {len(wide)} of {len(masks) + len(missed)} layers ({names}), so "
        f"{masks.pruned / whole:.2%} of their weights are cut, not {granularity.amount or 0:.0%}: cut channels with "
        f"round_to={size} before, so that widths are multiples of {size}.",
    )


@torch.no_grad()
def _with_values_of(model: nn.Module, pruned: nn.Module) -> nn.Module:
    """Copy the values of the pruned copy to `model`, as the last operation, and return it."""
    values = named_tensors(pruned)
    for name, tensor in named_tensors(model).items():
        tensor.copy_(values[name])
    return model
