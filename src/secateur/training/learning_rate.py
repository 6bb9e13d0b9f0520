"""The learning rate of each iteration: warm-up, then the schedule."""

from __future__ import annotations

from secateur.core.options import options_from
from secateur.training.config import TrainConfig
from secateur.training.duration import Duration
from secateur.training.schedules import SCHEDULES


def learning_rate(iteration: int, per_epoch: int, config: TrainConfig) -> float:
    """Return the learning rate of `iteration` (0-based).

    lr (i + 1) / (w + 1) for iterations i below the w of the warm-up, then lr times the schedule's factor.
    """
    total = per_epoch * config.epochs
    warmup = Duration.parse(config.warmup).iterations(per_epoch, total)
    if iteration < warmup:
        return config.lr * (iteration + 1) / (warmup + 1)
    factor = SCHEDULES[config.schedule]
    return config.lr * factor(iteration / per_epoch, **options_from(config, factor))
