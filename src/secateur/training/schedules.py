"""Learning-rate schedules as pure functions of time.

A schedule maps the epoch reached (a fraction in mid-epoch) to a factor on the peak learning rate. Nothing is
accumulated, so a run continued anywhere is on the same curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from secateur.registry import Registry
from secateur.training.config import TrainConfig
from secateur.training.duration import Duration

SCHEDULES: Registry[Callable[[float, TrainConfig], float]] = Registry("schedule")


def learning_rate(iteration: int, per_epoch: int, config: TrainConfig) -> float:
    """Return the learning rate of `iteration` (0-based): linear warm-up, then the schedule."""
    total = per_epoch * config.epochs
    warmup = Duration.parse(config.warmup).iterations(per_epoch, total)
    if iteration < warmup:
        return config.lr * (iteration + 1) / (warmup + 1)
    return config.lr * SCHEDULES[config.schedule](iteration / per_epoch, config)


@SCHEDULES.register("constant")
def constant(epoch: float, config: TrainConfig) -> float:
    """The peak rate all along."""
    return 1.0


@SCHEDULES.register("step")
def step(epoch: float, config: TrainConfig) -> float:
    """Times `lr_factor` every `lr_every` epochs."""
    return config.lr_factor ** _cuts(epoch, config)


@SCHEDULES.register("halving")
def halving(epoch: float, config: TrainConfig) -> float:
    """Half every `lr_every` epochs."""
    return 0.5 ** _cuts(epoch, config)


@SCHEDULES.register("multistep")
def multistep(epoch: float, config: TrainConfig) -> float:
    """Times `lr_factor` at each of `milestones`."""
    passed: int = sum(epoch >= milestone for milestone in config.milestones)
    return config.lr_factor**passed


@SCHEDULES.register("cosine")
def cosine(epoch: float, config: TrainConfig) -> float:
    """Half a cosine from the peak to zero at the last epoch (Loshchilov & Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / max(1, config.epochs))))


def _cuts(epoch: float, config: TrainConfig) -> int:
    """Count the whole `lr_every` in `epoch`, whatever the rounding of either."""
    return math.floor(epoch / config.lr_every + 1e-9)
