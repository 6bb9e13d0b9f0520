"""Prune a model: score its tensors, spread the amount, cut.

The one public function follows the pipeline from left to right; each arrow is a function of another module:
targets → scores (criteria) → masks (allocate or pattern) → applied to a copy of the model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from secateur import granularity as granularities
from secateur.allocate import SCOPES, allocate, check_amount
from secateur.criteria import CRITERIA, score
from secateur.errors import InputError
from secateur.masks import Masks
from secateur.targets import prunable


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
                f"  {name:<{width}}  kept {kept:>12,} of {mask.numel():>12,}  ({1 - kept / mask.numel():.2%} cut)"
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
    include: Sequence[str] = ("weights",),
    keep: Sequence[str] = (),
    layers: Sequence[str] = (),
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
        masks: earlier cuts; they stay cut and count towards `amount`.
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
    SCOPES[scope]  # an unknown scope is refused whatever the granularity
    targets = prunable(model, include, keep, layers)
    earlier = Masks({name: mask for name, mask in (masks or {}).items()})
    earlier.of(model)
    skipped: dict[str, str] = {}
    if pattern.kind == "weight":
        requested = _amount(amount, earlier, targets)
        scores = score(criterion, targets, seed=seed, granularity=pattern.kind, **options)
        cut = allocate(scores, requested, scope, already=earlier)
    else:
        if amount is not None and not math.isclose(amount, pattern.amount or 0.0):
            raise InputError(
                f"The pattern {granularity} removes {pattern.amount:.0%} by itself: leave amount out."
            )
        requested = pattern.amount or 0.0
        unfit = [
            name for name, tensor in targets.items() if not granularities.fits(tuple(tensor.shape), pattern)
        ]
        skipped = dict.fromkeys(unfit, f"its input size is not a multiple of {pattern.of}")
        targets = {name: tensor for name, tensor in targets.items() if name not in skipped}
        if not targets:
            raise InputError(
                f"No layer fits the pattern {granularity}: no input size is a multiple of {pattern.of}."
            )
        scores = score(criterion, targets, seed=seed, granularity=pattern.kind, **options)
        scores = {
            n: s.masked_fill(~earlier[n].to(s.device), -math.inf) if n in earlier else s
            for n, s in scores.items()
        }
        cut = Masks({name: granularities.keep_pattern(s, pattern) for name, s in scores.items()})
        scope = "local"
    merged = cut & earlier
    pruned = model if inplace else copy.deepcopy(model)
    merged.apply_(pruned)
    choices = {
        "granularity": granularity,
        "criterion": criterion,
        **options,
        "scope": scope,
        "amount": requested,
        "include": tuple(include),
        "keep": tuple(keep),
        "layers": tuple(layers),
        "seed": seed,
    }
    return Pruned(pruned, merged, requested, cut.sparsity, choices, skipped)


def _amount(amount: float | None, earlier: Masks, targets: Mapping[str, Tensor]) -> float:
    """Return the amount, refusing one that is missing, not in [0, 1], or less than is cut already."""
    if amount is None:
        raise InputError("Say how much to remove: amount=0.8 removes 80 % of the prunable weights.")
    check_amount(amount)
    cut = sum(mask.numel() - int(mask.count_nonzero()) for name, mask in earlier.items() if name in targets)
    total = sum(tensor.numel() for tensor in targets.values())
    if round(amount * total) < cut:
        raise InputError(
            f"The amount {amount} is less than the {cut / total:.4f} that is cut already: amounts count from the whole."
        )
    return float(amount)
