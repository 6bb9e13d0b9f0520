"""View of units: their feature maps on calibration data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria.calibration import Calibration
from secateur.graph.groups import Member
from secateur.graph.labels import Vector
from secateur.graph.probe import Probe, TensorPlace
from secateur.importance.observed import by_samples, check_reached, coupling_of, remembered
from secateur.importance.parts import VIEWS, Question, ScoreParts, gather
from secateur.importance.sites import Sites, Spot
from secateur.measure.inputs import batch_size


@VIEWS.register("map")
def map_parts(question: Question) -> ScoreParts:
    """Score the maps of each unit's producers, [N, channels, *places] → [N, channels]; mean over all samples.

    Raises `InputError` for maps with NaN or infinity.
    """
    sites = Sites(coupling_of(question))
    return scored_maps(question, {group.name: dict(sites.maps(group)) for group in question.groups})


def scored_maps(question: Question, maps: Mapping[str, Mapping[Spot, Vector]]) -> ScoreParts:
    """Score the maps at the spots of each group, whose indices belong to the units given; mean over all samples."""
    means = remembered(
        question,
        [spot for found in maps.values() for spot in found],
        lambda data, missing: _means(question, data, missing),
    )
    return {
        group.name: [
            gather(Member(group.name, spot.dim, unit, makes=True), group.units, means[spot])
            for spot, unit in maps[group.name].items()
        ]
        for group in question.groups
    }


def _means(question: Question, data: Calibration, wanted: Sequence[Spot]) -> dict[Spot, Tensor]:
    """Return the mean score of each channel over all samples, float64 [channels], from one pass over the data."""
    probe = Probe(question.model, coupling_of(question).program, [spot.place for spot in wanted])
    score, options = question.criterion.unit, question.options
    spots: dict[TensorPlace, list[Spot]] = defaultdict(list)
    for spot in wanted:
        spots[spot.place].append(spot)
    totals: dict[Spot, Tensor] = {}
    counts: dict[Spot, int] = defaultdict(int)

    def seen(place: TensorPlace, tensor: Tensor) -> None:
        if not bool(tensor.isfinite().all()):
            raise InputError("The feature maps on this data hold NaN or infinity: look at the inputs.")
        for spot in spots[place]:
            scores = score(by_samples(tensor, along.get(place), samples, spot.dim), **options)
            total = scores.sum(0, dtype=torch.float64)
            totals[spot] = totals[spot] + total if spot in totals else total
            counts[spot] += len(scores)

    with torch.no_grad():
        for inputs, _ in data.tracked("feature maps"):
            samples, along = batch_size(inputs), probe.sample_dims(inputs)
            probe.run(inputs, seen)
    check_reached(wanted, totals)
    return {spot: (total / counts[spot]).cpu() for spot, total in totals.items()}
