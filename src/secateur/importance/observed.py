"""Common parts of views that observe activations: the trace, the data, and the cache of earlier measurements."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from typing import TypeVar

from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.seeds import same_draws
from secateur.criteria.calibration import Calibration
from secateur.criteria.registry import OBSERVED
from secateur.graph.coupling import Coupling
from secateur.importance.parts import Question
from secateur.importance.sites import Spot

ObservedKey = TypeVar("ObservedKey", bound=Hashable)
ObservedValue = TypeVar("ObservedValue")


def coupling_of(question: Question) -> Coupling:
    """Return the coupling of the question's groups. Raises `InputError` if it is None."""
    if question.coupling is None:
        raise InputError(
            f"The criterion {question.criterion.name} looks at the model at work: pass groups.coupling as coupling=."
        )
    return question.coupling


def calibration_of(question: Question) -> Calibration:
    """Return the question's calibration data. Raises `InputError` without data."""
    if question.data is None:
        observations = " and ".join(OBSERVED[need] for need in question.criterion.needs if need in OBSERVED)
        raise InputError(
            f"The criterion {question.criterion.name} needs {observations} on some data: "
            "pass batches of inputs and labels as data=."
        )
    return Calibration.of(question.data)


def remembered(
    question: Question,
    keys: Iterable[ObservedKey],
    measure: Callable[[Calibration, Sequence[ObservedKey]], dict[ObservedKey, ObservedValue]],
) -> dict[ObservedKey, ObservedValue]:
    """Return the value of every key; `measure(data, keys)` is called for keys without a cached value.

    Code that draws random numbers meanwhile draws from the question's seed.
    """
    wanted = list(dict.fromkeys(keys))
    options = {**question.criterion.options, **question.options, "seed": question.seed}
    with same_draws(question.seed, question.model):
        data = calibration_of(question)
        found = data.found(question.model, f"{question.criterion.name} {sorted(options.items())}")
        missing = [key for key in wanted if key not in found]
        if missing:
            found.update(measure(data, missing))
    return {key: found[key] for key in wanted}


def by_samples(tensor: Tensor, along: int | None, samples: int, dim: int) -> Tensor:
    """Return a tensor as [N, units, …], with the samples, dimension `along`, first, and dimension `dim` second.

    A dimension with several rows of each sample is split in two. If `along` is None, each row counts as a sample.
    """
    if samples == 1:
        return tensor.movedim(dim, 0)[None]
    if along is None:
        return tensor.movedim(dim, 1) if dim else tensor[None]
    if tensor.shape[along] != samples:
        tensor = tensor.reshape(*tensor.shape[:along], samples, -1, *tensor.shape[along + 1 :])
        dim += dim > along
    return tensor.movedim((along, dim), (0, 1))


def check_reached(wanted: Iterable[Spot], found: Container[Spot]) -> None:
    """Raise `InputError` unless every spot of `wanted` was observed."""
    for spot in wanted:
        if spot not in found:
            raise InputError(
                f"No calibration data reaches {spot.place.point.module or 'the model'}, whose activations count: "
                "pass more data."
            )
