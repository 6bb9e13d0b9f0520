"""Prune weights and patterns: targets → scores → masks, in one round or in many.

A round measures and scores the model with the cuts of the rounds before it, and cuts on to the next step of a
schedule; the last step is the amount asked for, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

from secateur import granularity as granularities
from secateur.allocate import SCOPES, Allocation, allocation, check_amount, least_amount
from secateur.criteria import CRITERIA, Batches, measured, score
from secateur.errors import InputError
from secateur.masks import Masks
from secateur.measure.inputs import Inputs, masked
from secateur.progress import track
from secateur.registry import Registry
from secateur.targets import prunable

Path: TypeAlias = Callable[[float, float, float], float]
PATHS: Registry[Path] = Registry("schedule of rounds")
"""Name → density after the fraction t of the rounds, from one density to another."""


@PATHS.register("exponential")
def exponential(start: float, end: float, t: float) -> float:
    """The same fraction of what is left goes in every round: start · (end / start)^t."""
    return start * (end / start) ** t if start else 0.0


@PATHS.register("linear")
def linear(start: float, end: float, t: float) -> float:
    """As many go in every round: start + (end − start) · t."""
    return start + (end - start) * t


@dataclass(frozen=True)
class Sparsified:
    """Masks of what is left, those given before included, and how they came about.

    `requested` and `achieved` are fractions of the weights that may go, `skipped` says what was left alone and why,
    `redistributed` where a tensor kept weights that others lost instead, so that none is empty.
    """

    masks: Masks
    requested: float
    achieved: float
    rounds: int
    skipped: Mapping[str, str]
    redistributed: Mapping[str, int]


def prune_weights(
    model: nn.Module,
    example_inputs: Inputs | None,
    pattern: granularities.Granularity,
    *,
    amount: float | None,
    criterion: str,
    scope: str,
    include: Sequence[str],
    keep: Sequence[str],
    layers: Sequence[str],
    masks: Mapping[str, Tensor] | None,
    rounds: int | None,
    schedule: str,
    allow_empty: bool,
    data: Batches | None,
    seed: int,
    options: Mapping[str, Any],
) -> Sparsified:
    """Find the masks that cut the least important weights of `model`, which stays as it is; see `secateur.prune`."""
    entry, rule = CRITERIA[criterion], SCOPES[scope]
    entry.check(pattern.kind, options)
    if pattern.kind != "weight" and rule.name not in ("global", "local"):
        raise InputError(
            f"The pattern {pattern} takes the same of every group: leave the scope {rule.name} out."
        )
    requested = _requested(amount, pattern)
    path, rounds = PATHS[schedule], entry.rounds if rounds is None else _whole(rounds)
    targets: Mapping[str, Tensor] = prunable(model, include, keep, layers)
    earlier = Masks(masks or {})
    earlier.of(model)
    skipped: dict[str, str] = {}
    if pattern.kind != "weight":
        targets, skipped = _fitting(targets, pattern)
    weights = {name: t.detach().clone() for name, t in targets.items()} if entry.regrows else targets
    data = list(data) if data is not None and rounds > 1 else data

    def scores(cut: Masks) -> dict[str, Tensor]:
        with masked(model, cut):
            found = measured(
                criterion, model, targets, data, example_inputs=example_inputs, seed=seed, **options
            )
            return score(criterion, weights, seed=seed, granularity=pattern.kind, measured=found, **options)

    cuts: list[Callable[[Mapping[str, Tensor], Masks], Allocation]]
    if pattern.kind == "weight":
        cuts = [
            partial(_by_amount, amount=step, scope=rule.name, allow_empty=allow_empty)
            for step in _amounts(path, rounds, requested, _cut_already(targets, earlier, rule.name))
        ]
    else:
        cuts = [
            partial(_by_pattern, pattern=step) for step in _patterns(path, rounds, pattern, entry.regrows)
        ]
    latest = Allocation(Masks({}), {})
    for cut in track(cuts, "rounds", len(cuts)) if len(cuts) > 1 else cuts:
        before = latest.masks & earlier
        latest = cut(scores(before), earlier if entry.regrows else before)
    return Sparsified(
        latest.masks & earlier, requested, latest.masks.sparsity, rounds, skipped, latest.redistributed
    )


def _by_amount(
    scores: Mapping[str, Tensor], already: Masks, amount: float, scope: str, allow_empty: bool
) -> Allocation:
    return allocation(scores, amount, scope, already, allow_empty)


def _by_pattern(
    scores: Mapping[str, Tensor], already: Masks, pattern: granularities.Granularity
) -> Allocation:
    return Allocation(granularities.keep_patterns(scores, pattern, already), {})


def _amounts(path: Path, rounds: int, requested: float, already: float) -> list[float]:
    """Return the amount cut after each round; the last is what was requested."""
    steps = (1 - path(1 - already, 1 - requested, step / rounds) for step in range(1, rounds))
    return [*(steps if requested > already else ()), requested]


def _patterns(
    path: Path, rounds: int, pattern: granularities.Granularity, regrows: bool
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


def _requested(amount: float | None, pattern: granularities.Granularity) -> float:
    """Return the fraction to remove: the caller's, or the pattern's own."""
    if pattern.amount is None:
        if amount is None:
            raise InputError("Say how much to remove: amount=0.8 removes 80 % of the prunable weights.")
        return check_amount(amount)
    if amount is not None and not math.isclose(check_amount(amount), pattern.amount):
        raise InputError(f"The pattern {pattern} removes {pattern.amount:.0%} by itself: leave amount out.")
    return pattern.amount


def _whole(rounds: Any) -> int:
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise InputError(f"The number of rounds is {rounds!r}: give a whole number from 1.")
    return rounds
