"""Prune weights and patterns: targets → scores → masks, in one round or in many.

A round measures and scores the model with the cuts of the rounds before it, and cuts on to the next step of a
schedule; the last step is the amount asked for, exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compensation import Case
from secateur.core.errors import InputError, ModelError, reason_of
from secateur.core.progress import track
from secateur.criteria import CRITERIA, Calibration, CalibrationBatches, measured, score
from secateur.graph.couple import couple
from secateur.graph.trace import trace
from secateur.measure.inputs import ModelInputs
from secateur.pruning.allocate_weights import SCOPES, allocate, least_amount, redistributed
from secateur.pruning.compensate import make_up
from secateur.pruning.iterative import PATHS, DensitySchedule
from secateur.pruning.result import Pruned
from secateur.pruning.settings import Settings
from secateur.shrink.plan import named_tensors
from secateur.sparsity import granularity as granularities
from secateur.sparsity.masks import Masks
from secateur.sparsity.targets import prunable


def prune_weights(model: nn.Module, example_inputs: ModelInputs | None, settings: Settings) -> Pruned:
    """Cut the least important weights of `model`, or of a copy; see `secateur.prune`."""
    criterion, pattern, seed, data = settings.criterion, settings.granularity, settings.seed, settings.data
    entry, rule = CRITERIA[criterion], SCOPES[settings.scope]
    requested = settings.requested
    path = PATHS[settings.schedule]
    rounds = entry.rounds if settings.rounds is None else settings.rounds
    compensates, compensated = settings.compensation != "drop" or settings.corrects, dict[str, Any]()
    if data is not None and (rounds > 1 or compensates):
        data = Calibration.of(data)
    targets: Mapping[str, Tensor] = prunable(model, settings.include, settings.keep, settings.layers)
    earlier = Masks(settings.masks or {})
    earlier.of(model)
    skipped: dict[str, str] = {}
    if pattern.kind != "weight":
        targets, skipped = _fitting(targets, pattern)
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
                granularity=pattern.kind,
                measured=found,
                **settings.criterion_options,
            )

    cuts: list[Callable[..., Masks]]
    if pattern.kind == "weight":
        cuts = [
            partial(allocate, amount=step, scope=rule.name, allow_empty=settings.allow_empty)
            for step in _amounts(path, rounds, requested, _cut_already(targets, earlier, rule.name))
        ]
    else:
        cuts = [
            partial(granularities.keep_patterns, pattern=step)
            for step in _patterns(path, rounds, pattern, entry.regrows)
        ]
    latest, ranked, already = Masks({}), dict[str, Tensor](), earlier
    for cut in track(cuts, "rounds", len(cuts)) if len(cuts) > 1 else cuts:
        before = latest & earlier
        already = earlier if entry.regrows else before
        ranked = scores(before)
        latest = cut(ranked, already=already)
    moved: dict[str, int] = {}
    if pattern.kind == "weight" and not settings.allow_empty:
        moved = redistributed(latest, ranked, requested, rule.name, already)
    del ranked  # as large as the model that is copied next
    masks = latest & earlier
    pruned = model if settings.inplace and not compensates else _copy(model)
    masks.apply_(pruned)
    if compensates:
        masks, compensated = _made_up(model, pruned, masks, example_inputs, data, settings)
        if settings.inplace:
            pruned = _take_over(model, pruned)
    choices = settings.choices("include", "schedule", "allow_empty") | {
        "scope": rule.name if pattern.kind == "weight" else "local",
        "amount": requested,
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
    )


def _made_up(
    model: nn.Module,
    pruned: nn.Module,
    masks: Masks,
    example_inputs: ModelInputs | None,
    data: CalibrationBatches | None,
    settings: Settings,
) -> tuple[Masks, dict[str, Any]]:
    """Let the compensation change the pruned model; return the masks it has then, and what was told."""
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
        pattern=settings.granularity,
    )
    told = make_up(case, couple(program), settings)
    masks = told.pop("masks", masks)
    masks.apply_(pruned)
    return masks, told


@contextmanager
def _without(model: nn.Module, cut: Masks) -> Iterator[None]:
    """Let what is cut be zero while the block runs; then all values are what they were.

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


def _amounts(path: DensitySchedule, rounds: int, requested: float, already: float) -> list[float]:
    """Return the amount cut after each round; the last is what was requested."""
    steps = (1 - path(1 - already, 1 - requested, step / rounds) for step in range(1, rounds))
    return [*(steps if requested > already else ()), requested]


def _patterns(
    path: DensitySchedule, rounds: int, pattern: granularities.Granularity, regrows: bool
) -> list[granularities.Granularity]:
    """Return the pattern after each round; rounds that would cut nothing new are left out, unless weights regrow."""
    kept = [
        max(pattern.kept, round(pattern.of * path(1.0, pattern.kept / pattern.of, step / rounds)))
        for step in range(1, rounds)
    ]
    counts = [*kept, pattern.kept]
    return [replace(pattern, kept=count) for count in (counts if regrows else dict.fromkeys(counts))]


def _cut_already(targets: Mapping[str, Tensor], earlier: Masks, scope: str) -> float:
    """Return the amount that a scope must take at least, after the cuts that were made earlier."""
    sizes = {name: target.numel() for name, target in targets.items()}
    spent = {name: sizes[name] - int(mask.count_nonzero()) for name, mask in earlier.items() if name in sizes}
    return least_amount(scope, sizes, spent)


def _fitting(
    targets: Mapping[str, Tensor], pattern: granularities.Granularity
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors a pattern fits, and why the others don't."""
    reasons = {name: granularities.misfit(tuple(target.shape), pattern) for name, target in targets.items()}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    fitting = {name: target for name, target in targets.items() if name not in skipped}
    if not fitting:
        name, reason = next(iter(skipped.items()))
        raise InputError(f"No layer fits the pattern {pattern}: {name} does not, {reason}.")
    return fitting, skipped


@torch.no_grad()
def _take_over(model: nn.Module, pruned: nn.Module) -> nn.Module:
    """Give `model` the values of its pruned copy, once nothing can go wrong any more."""
    values = named_tensors(pruned)
    for name, tensor in named_tensors(model).items():
        tensor.copy_(values[name])
    return model


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} can't be copied ({reason_of(error)}): prune it itself, with inplace=True."
        ) from error
