"""View of units: the first-order change of the loss without a whole unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria.calibration import Calibration
from secateur.criteria.losses import gradients
from secateur.graph.groups import Group
from secateur.importance.observed import remembered
from secateur.importance.parts import VIEWS, Question, ScorePart, ScoreParts
from secateur.importance.weights import sums

GroupKey: TypeAlias = tuple[tuple[str, int, bytes], ...]


@VIEWS.register("change")
def change_parts(question: Question) -> ScoreParts:
    """Score Σ w · ∂L/∂w over all weights of a unit, [units], batch by batch; mean over all samples, float64 [units].

    Raises `InputError` without a batch.
    """
    with question.as_used() as used:
        return _change_parts(used)


def _change_parts(question: Question) -> ScoreParts:
    parameters = question.parameters()
    groups = {_key(group): group for group in question.groups}

    def measure(data: Calibration, keys: Sequence[GroupKey]) -> dict[GroupKey, Tensor]:
        totals = {key: torch.zeros(groups[key].units, dtype=torch.float64) for key in keys}
        samples = 0
        for gradient, size in gradients(question.model, parameters, data):
            products = {name: parameters[name].detach() * grad for name, grad in gradient.items()}
            for key in keys:
                change = torch.stack([part.total for part in sums(groups[key], products, {})]).sum(0)
                totals[key] += size * question.criterion.unit(change, **question.options)
            samples += size
        if not samples:
            raise InputError("The data holds no batch: pass batches of inputs and labels as data=.")
        return {key: total / samples for key, total in totals.items()}

    scores = remembered(question, groups, measure)
    return {
        group.name: [ScorePart(scores[key], torch.ones_like(scores[key]))] for key, group in groups.items()
    }


def _key(group: Group) -> GroupKey:
    """Return a key that identifies a group: its tensors' names and dimensions, and the units of their indices."""
    return tuple((member.name, member.dim, member.unit.tobytes()) for member in group.members)
