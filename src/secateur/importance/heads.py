"""Views of units: their activations at the products that read them, with gradients or with units masked.

For attention heads these are the outputs of the heads, before the output projection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateur.core.errors import InputError, ModelError, reason_of
from secateur.core.progress import bar
from secateur.core.seeds import same_draws
from secateur.criteria.calibration import Calibration
from secateur.criteria.losses import finite, loss_of
from secateur.graph.labels import Vector
from secateur.graph.probe import Probe, TensorPlace
from secateur.importance.observed import by_samples, check_reached, coupling_of, remembered
from secateur.importance.parts import VIEWS, Question, ScorePart, ScoreParts
from secateur.importance.sites import Sites, Spot
from secateur.measure.inputs import batch_size


class Reading(NamedTuple):
    """The activations at the input of a product, and the unit of each index there, −1 for none."""

    spot: Spot
    unit: tuple[int, ...]


@VIEWS.register("attention")
def attention_parts(question: Question) -> ScoreParts:
    """Score the heads' outputs and their gradients, both [N, heads, tokens, features] → [parts, heads]; the mean.

    Raises `InputError` for data without a loss, and `ModelError` for a model without gradients.
    """
    readings = _readings(question)
    means = remembered(
        question,
        [reading for found in readings.values() for reading in found],
        lambda data, missing: _sensitivities(question, data, missing),
    )
    return {name: [_part(means[reading]) for reading in found] for name, found in readings.items()}


@VIEWS.register("masked")
def masked_parts(question: Question) -> ScoreParts:
    """Score the mean loss over all samples, [1], and that without each unit, [units] → [units].

    Raises `InputError` for data without a loss.
    """
    readings = {name: tuple(found) for name, found in _readings(question).items() if found}
    losses = remembered(question, readings.values(), lambda data, missing: _losses(question, data, missing))
    score, options = question.criterion.unit, question.options
    return {
        name: [_part(score(losses[found][:1], losses[found][1:], **options))]
        for name, found in readings.items()
    }


def _part(scores: Tensor) -> ScorePart:
    return ScorePart(scores, torch.ones_like(scores))


def _readings(question: Question) -> dict[str, list[Reading]]:
    """Return group name → inputs of the products that read it."""
    sites = Sites(coupling_of(question))
    return {
        group.name: [
            Reading(spot, tuple(unit.tolist())) for spot, unit in dict(sites.readings(group)).items()
        ]
        for group in question.groups
    }


def _sensitivities(question: Question, data: Calibration, wanted: Sequence[Reading]) -> dict[Reading, Tensor]:
    """Return the mean score of each unit over all parts, float64 [units], from one pass over the data."""
    probe = Probe(question.model, coupling_of(question).program, [reading.spot.place for reading in wanted])
    score, options = question.criterion.unit, question.options
    folds = {reading: _Fold(np.array(reading.unit)) for reading in wanted}
    totals: dict[Reading, Tensor] = {}
    counts: dict[Reading, int] = defaultdict(int)
    with torch.enable_grad():
        for inputs, labels in data.tracked("heads"):
            found: dict[TensorPlace, Tensor] = {}

            def seen(place: TensorPlace, tensor: Tensor, found: dict[TensorPlace, Tensor] = found) -> None:
                found[place] = tensor if tensor.requires_grad else tensor.requires_grad_()

            samples, along = batch_size(inputs), probe.sample_dims(inputs)
            gradients = _gradients(probe.run(inputs, seen), labels, samples, found)
            for reading in wanted:
                place, dim = reading.spot
                if place not in found:
                    continue
                pair = (
                    folds[reading](by_samples(each, along.get(place), samples, dim))
                    for each in (found[place].detach(), gradients[place])
                )
                scores = score(*pair, **options)
                total = scores.sum(0, dtype=torch.float64)
                totals[reading] = totals[reading] + total if reading in totals else total
                counts[reading] += len(scores)
    check_reached([reading.spot for reading in wanted], {reading.spot for reading in totals})
    return {reading: (total / counts[reading]).cpu() for reading, total in totals.items()}


class _Fold:
    """Reshapes [N, indices, …] to [N, units, tokens, features]; units with fewer indices are padded with zeros."""

    def __init__(self, unit: Vector) -> None:
        order = np.argsort(unit, kind="stable")[np.count_nonzero(unit < 0) :]
        sizes = np.bincount(unit[order])
        at = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        index = np.full((len(sizes), sizes.max()), -1)
        index[unit[order], at] = order
        self.index = torch.from_numpy(index)

    def __call__(self, tensor: Tensor) -> Tensor:
        index = self.index.to(tensor.device)
        tokens = tensor.unsqueeze(-1).flatten(2)  # [N, indices, tokens]
        features = tokens[:, index.clamp(min=0)].masked_fill((index < 0)[..., None], 0)
        return features.transpose(2, 3)


def _losses(
    question: Question, data: Calibration, wanted: Sequence[tuple[Reading, ...]]
) -> dict[tuple[Reading, ...], Tensor]:
    """Return the mean loss over all samples, unmasked and with each unit zero at all its readers, [1 + units]."""
    places = [reading.spot.place for readings in wanted for reading in readings]
    probe = Probe(question.model, coupling_of(question).program, places)
    units = {readings: max(max(reading.unit) for reading in readings) + 1 for readings in wanted}
    totals = {readings: torch.zeros(1 + count, dtype=torch.float64) for readings, count in units.items()}
    samples = 0
    with torch.no_grad(), bar("heads left out", sum(units.values()) * len(data)) as running:
        for inputs, labels in data:
            size = batch_size(inputs)
            samples += size

            def mean_loss(
                masks: dict[TensorPlace, tuple[int, Tensor]], inputs: Any = inputs, labels: Any = labels
            ) -> float:
                def seen(place: TensorPlace, tensor: Tensor) -> Tensor | None:
                    if place not in masks:
                        return None
                    dim, mask = masks[place]
                    shape = [-1 if at == dim else 1 for at in range(tensor.ndim)]
                    return tensor.masked_fill(mask.to(tensor.device).view(shape), 0)

                with same_draws(question.seed, probe.ghost):
                    return float(_loss(probe.run(inputs, seen), labels))

            dense = mean_loss({})
            for readings, count in units.items():
                totals[readings][0] += size * dense
                for unit in range(count):
                    masks = {
                        reading.spot.place: (reading.spot.dim, torch.tensor(reading.unit) == unit)
                        for reading in readings
                    }
                    totals[readings][1 + unit] += size * mean_loss(masks)
                    running.advance()
    if not samples:
        raise InputError("The data holds no batch: pass batches of inputs and labels as data=.")
    return {readings: total / samples for readings, total in totals.items()}


def _gradients(
    outputs: Any, labels: Tensor | None, samples: int, of: Mapping[TensorPlace, Tensor]
) -> dict[TensorPlace, Tensor]:
    """Return the gradients of the summed loss of a batch."""
    loss = samples * _loss(outputs, labels)
    try:
        found = torch.autograd.grad(loss, list(of.values()), allow_unused=True, materialize_grads=True)
    except RuntimeError as error:
        raise ModelError(
            f"The model's code lets no gradient through ({reason_of(error)}): use head_loss."
        ) from error
    return dict(zip(of, found, strict=True))


def _loss(outputs: Any, labels: Tensor | None) -> Tensor:
    try:
        loss = loss_of(outputs, labels)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"The calibration data gives no loss ({reason_of(error)}): pass labels that fit the model's outputs."
        ) from error
    return finite(loss)
