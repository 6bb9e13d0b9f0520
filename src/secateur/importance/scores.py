"""One score for each unit, from a criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.registry import Registry
from secateur.core.seeds import same_draws
from secateur.criteria import CRITERIA, CalibrationBatches
from secateur.graph.coupling import Coupling
from secateur.graph.groups import Group
from secateur.importance.parts import REDUCTIONS, VIEWS, Question
from secateur.sparsity.granularity import kinds_where

NORMALIZATIONS: Registry[Callable[[Tensor], Tensor]] = Registry("normalization")
NORMALIZATIONS.add("none", lambda scores: scores)
NORMALIZATIONS.add("mean", lambda scores: _divided(scores, scores.abs().mean()))
NORMALIZATIONS.add("max", lambda scores: _divided(scores, scores.abs().amax()))
NORMALIZATIONS.add("l2", lambda scores: _divided(scores, torch.linalg.vector_norm(scores)))


def unit_scores(
    model: nn.Module,
    groups: Iterable[Group],
    criterion: str,
    *,
    coupling: Coupling | None = None,
    example_inputs: Any = None,
    data: CalibrationBatches | None = None,
    seed: int = 0,
    reduction: str = "mean",
    normalization: str = "none",
    **options: Any,
) -> dict[str, Tensor]:
    """Score every unit: group name → float64 [units], the lowest removed first.

    Groups without input for the criterion, such as those without normalisation for bn_scale, are left out. `coupling`
    is that of the groups, `data` are batches for a criterion that needs them, `reduction` (default "mean") combines
    the tensors of a unit, `normalization` (default "none") scales the scores of each group, `options` are the
    criterion's own. Raises `InputError` for a criterion that does not score units, an option it does not have, missing
    data or coupling, and NaN or infinite scores.
    """
    entry = CRITERIA[criterion]
    scored = kinds_where(lambda each: each.grouped and bool(each.elements & entry.elements))
    entry.check(scored[0] if scored else "channel", options)
    reduce, normalize = REDUCTIONS[reduction], NORMALIZATIONS[normalization]
    question = Question(model, list(groups), entry, options, coupling, example_inputs, data, seed)
    with same_draws(seed, model):
        parts = VIEWS[entry.per](question)
    scores = {name: normalize(reduce(found)) for name, found in parts.items() if found}
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise InputError(
                f"The criterion {criterion} gave units of {name} scores that are NaN or infinite: "
                "try other data, or another criterion."
            )
    return scores


def _divided(scores: Tensor, by: Tensor) -> Tensor:
    return scores / by if by > 0 else scores
