"""Error and loss along the straight line between two models, and the barrier on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from secateur.connectivity.interpolation import Between
from secateur.connectivity.statistics import STATISTICS
from secateur.core.errors import InputError, ModelError
from secateur.core.progress import bar
from secateur.data import Dataset
from secateur.training import evaluate

PathRow = Mapping[str, float]
PATH_POINTS = 30
MARGIN = 0.02
"""The paper's margin: a network of an error barrier below 2 % counts as stable."""
PATH_MEASURES = ("train_error", "train_loss", "test_error", "test_loss")


def path(
    a: nn.Module,
    b: nn.Module,
    data: Dataset,
    *,
    points: int = PATH_POINTS,
    statistics: str = "estimated",
    batches: int = 50,
    batch_size: int = 128,
    seed: int = 0,
    augment: str | None = None,
    samples: int | None = None,
    masks: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
    progress: bool = True,
) -> list[PathRow]:
    """Measure (1 − α) A + α B at evenly spaced α and return a row for each, from α = 0 to α = 1.

    A row is {"alpha", "train_error", "train_loss", "test_error", "test_loss"}: errors are 1 − top-1, losses mean
    cross-entropies in nats, both without augmentation.

    Args:
        a, b: two models of one architecture; neither is changed.
        data: data set of the measurements and statistics.
        points: number of α, both ends included; 30 as in the paper.
        statistics: of batch normalisations: "estimated" anew at each α, or "interpolated" as other tensors.
        batches: number of training batches for estimated statistics.
        batch_size: samples per such batch.
        seed: seed of their order and augmentation.
        augment: their augmentation; by default the data set's own.
        samples: number of samples of each split to measure on, class-balanced; by default all.
        masks: masks of `a` and of `b`, which must be equal if both are cut.
        progress: show a bar.

    Raises:
        InputError: for an invalid setting, or masks that differ.
        ModelError: if the models are not alike, don't fit the data, or their loss is infinite or NaN.

    Cost: for each α one evaluation of both splits, and `batches` forward passes for estimated statistics.
    """
    if points < 3:
        raise InputError(
            f"A path has two ends and something between: points must be at least 3, not {points}."
        )
    settle, line = STATISTICS[statistics], Between(a, b, masks)
    measured = data if samples is None else data.subset(train=samples, test=samples)
    rows: list[PathRow] = []
    with bar("path", points, shown=progress) as running:
        for number in range(points):
            alpha = number / (points - 1)
            model = line.at(alpha)
            settle(model, data, batches, batch_size, seed, augment)
            row = {"alpha": alpha}
            for split in ("train", "test"):
                found = evaluate(model, measured, split=split, progress=False)
                row |= {f"{split}_error": 1 - found["top1"], f"{split}_loss": found["loss"]}
            if not all(map(math.isfinite, row.values())):
                raise ModelError(f"The loss is infinite or NaN at α = {alpha:.3f} between the two models.")
            rows.append(row)
            running.advance()
    return rows


def barrier(rows: Sequence[PathRow]) -> dict[str, float]:
    """Return, for each measure, the highest value on the path − the mean of its two ends, in the measure's units.

    sup_α E(W(α)) − (E(A) + E(B)) / 2 of Frankle et al. 2020, section 2. Never negative, since the ends are on the path.
    Raises `InputError` for rows without both ends.

    >>> barrier([{"alpha": alpha, "test_error": error} for alpha, error in ((0, 0.1), (0.5, 0.4), (1, 0.2))])
    {'test_error': 0.25}
    """
    return _above(rows, lambda first, last: (first + last) / 2)


def rise(rows: Sequence[PathRow]) -> dict[str, float]:
    """Return, for each measure, the highest value on the path − that of its worse end, in the measure's units.

    A barrier is at least half the difference of its ends; the rise above the worse one excludes this part. Never
    negative. Raises `InputError` for rows without both ends.

    >>> rise([{"alpha": alpha, "test_error": error} for alpha, error in ((0, 0.1), (0.5, 0.15), (1, 0.2))])
    {'test_error': 0.0}
    """
    return _above(rows, max)


def _above(rows: Sequence[PathRow], ground: Callable[[float, float], float]) -> dict[str, float]:
    """Return, for each measure, the highest value on the path − `ground(first, last)` of its ends."""
    ordered = sorted(rows, key=lambda row: row["alpha"])
    if not ordered or (ordered[0]["alpha"], ordered[-1]["alpha"]) != (0, 1):
        raise InputError(
            "These rows are no path from α = 0 to α = 1: a barrier is measured against both ends."
        )
    first, last = ordered[0], ordered[-1]
    return {
        name: max(row[name] for row in ordered) - ground(first[name], last[name])
        for name in PATH_MEASURES
        if name in first
    }


def is_stable(found: Mapping[str, float], margin: float = MARGIN) -> bool:
    """Tell whether a barrier, as from `barrier`, is below the margin in the error of every split it holds."""
    return all(value < margin for name, value in found.items() if name.endswith("_error"))
