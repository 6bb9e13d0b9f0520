"""The early-stopping iteration of a training, that of the lowest test loss."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.core.errors import InputError
from secateur.training.journal import MetricsRow


def early_stop(rows: Sequence[MetricsRow]) -> MetricsRow:
    """Return the row of a training's log with the lowest test loss, the first of equals.

    Its iteration is the early-stopping iteration (Frankle & Carbin 2019, section 2), to the resolution of the log
    (`evaluate_every`). Raises `InputError` for a log without rows.

    >>> early_stop([{"iteration": 10, "loss": 0.3}, {"iteration": 20, "loss": 0.2}, {"iteration": 30, "loss": 0.2}])
    {'iteration': 20, 'loss': 0.2}
    """
    if not rows:
        raise InputError("There is no row in the log to look for the lowest loss in: train for an iteration.")
    return min(rows, key=lambda row: float(row["loss"]))
