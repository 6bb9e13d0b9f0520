"""Prune a model: score its tensors, spread the amount, cut.

The one public function follows the pipeline from left to right; each arrow is a function of another module:
targets → scores (criteria) → masks (allocate or pattern) → applied to a copy of the model.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from secateur import granularity as granularities
from secateur.allocate import SCOPES, allocate, check_amount
from secateur.criteria import CRITERIA, score
from secateur.errors import InputError, ModelError
from secateur.masks import Masks
from secateur.targets import as_names, prunable


@dataclass(frozen=True)
class Pruned:
    """What `prune` gives back.

    `model` is the pruned model (same class), `masks` what was kept, `requested` and `achieved` the fraction of the
    prunable weights to remove and removed, `choices` the arguments that made it, `skipped` the tensors left alone
    and why.
    """

    model: nn.Module
    masks: Masks
    requested: float
    achieved: float
    choices: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """Say in a few lines what was removed from where."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        lines = [
            f"{self.choices['granularity']} pruning by {self.choices['criterion']}, scope {self.choices['scope']}",
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
        lines += [f"  {name:<{width}}  left alone: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


def prune(
    model: nn.Module,
    *,
    amount: float | None = None,
    granularity: str = "weight",
    criterion: str = "magnitude",
    scope: str = "global",
    include: str | Sequence[str] = ("weights",),
    keep: str | Sequence[str] | None = (),
    layers: str | Sequence[str] | None = (),
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    inplace: bool = False,
    **options: Any,
) -> Pruned:
    """Cut the least important weights of `model` and return the pruned model with its masks.

    Args:
        model: any module; left as it is unless `inplace`.
        amount: fraction of the prunable weights to remove, in [0, 1]; exactly round(amount · n) go. A pattern
            N:M fixes it, so it must be left out there.
        granularity: "weight", or a pattern such as "2:4" (keep 2 of every 4 along the input dimension).
        criterion: a name from `secateur.CRITERIA`; `options` are the criterion's own (such as `norm="l2"`).
        scope: "global", "local", "erk" or "lamp"; a pattern is always local.
        include: roles of parameters that may be cut: weights, biases, norms, embeddings, others, or all.
        keep: names or globs of parameters or modules to leave alone.
        layers: names or globs; when given, only these are cut.
        masks: earlier cuts; they stay cut and count towards `amount`. Under a pattern they count as the lowest,
            so that a group keeps fewer than N only where fewer were left.
        seed: for criteria that draw at random.
        inplace: prune `model` itself instead of a copy.

    Raises:
        InputError: for an argument that makes no sense.
        ModelError: for a model with nothing to prune or with NaN weights.

    >>> result = prune(nn.Linear(4, 2), amount=0.5)
    >>> result.masks.pruned
    4
    """
    pattern = granularities.parse(granularity)
    CRITERIA[criterion].check(pattern.kind, options)
    rule = SCOPES[scope]
    if pattern.kind != "weight" and rule.name not in ("global", "local"):
        raise InputError(
            f"The pattern {granularity} takes the same of every group: leave the scope {scope} out."
        )
    include, keep, layers = as_names(include), as_names(keep), as_names(layers)
    requested = _requested(amount, pattern, granularity)
    targets = prunable(model, include, keep, layers)
    earlier = Masks(masks or {})
    earlier.of(model)
    skipped: dict[str, str] = {}
    if pattern.kind == "weight":
        scores = score(criterion, targets, seed=seed, granularity=pattern.kind, **options)
        cut = allocate(scores, requested, rule.name, already=earlier)
    else:
        reasons = {
            name: granularities.misfit(tuple(target.shape), pattern) for name, target in targets.items()
        }
        skipped = {name: reason for name, reason in reasons.items() if reason is not None}
        fitting = {name: target for name, target in targets.items() if name not in skipped}
        if not fitting:
            name, reason = next(iter(skipped.items()))
            raise InputError(f"No layer fits the pattern {granularity}: {name} does not, {reason}.")
        scores = score(criterion, fitting, seed=seed, granularity=pattern.kind, **options)
        cut = granularities.keep_patterns(scores, pattern, already=earlier)
    del scores  # as large as the model that is copied next
    merged = cut & earlier
    pruned = model if inplace else _copy(model)
    merged.apply_(pruned)
    choices = {
        "granularity": granularity,
        "criterion": criterion,
        **options,
        "scope": scope if pattern.kind == "weight" else "local",
        "amount": requested,
        "include": include,
        "keep": keep,
        "layers": layers,
        "seed": seed,
    }
    return Pruned(pruned, merged, requested, cut.sparsity, choices, skipped)


def _requested(amount: float | None, pattern: granularities.Granularity, granularity: str) -> float:
    """Return the fraction to remove: the caller's, or the pattern's own."""
    if pattern.amount is None:
        if amount is None:
            raise InputError("Say how much to remove: amount=0.8 removes 80 % of the prunable weights.")
        return check_amount(amount)
    if amount is not None and not math.isclose(check_amount(amount), pattern.amount):
        raise InputError(
            f"The pattern {granularity} removes {pattern.amount:.0%} by itself: leave amount out."
        )
    return pattern.amount


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        reason = re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".") or type(error).__name__
        raise ModelError(
            f"{type(model).__name__} can't be copied ({reason}): prune it itself, with inplace=True."
        ) from error
