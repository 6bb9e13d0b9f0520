"""Learning-rate schedules as pure functions of time.

A schedule maps the epoch (fractional in mid-epoch) to a factor on the peak learning rate; its keyword-only
parameters are fields of a `TrainConfig`. Nothing is accumulated, so a resumed run follows the same curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from secateur.core.registry import Registry

SCHEDULES: Registry[Callable[..., float]] = Registry("schedule")


@SCHEDULES.register("constant")
def constant(epoch: float) -> float:
    """The peak rate throughout."""
    return 1.0


@SCHEDULES.register("step")
def step(epoch: float, *, lr_factor: float, lr_every: float) -> float:
    """Times `lr_factor` every `lr_every` epochs."""
    return lr_factor ** _cuts(epoch, lr_every)


@SCHEDULES.register("halving")
def halving(epoch: float, *, lr_every: float) -> float:
    """Half every `lr_every` epochs."""
    return 0.5 ** _cuts(epoch, lr_every)


@SCHEDULES.register("multistep")
def multistep(epoch: float, *, lr_factor: float, milestones: Sequence[float]) -> float:
    """Times `lr_factor` at each of `milestones`."""
    passed: int = sum(epoch >= milestone for milestone in milestones)
    return lr_factor**passed


@SCHEDULES.register("cosine")
def cosine(epoch: float, *, epochs: int) -> float:
    """Half a cosine from the peak to zero at the last epoch (Loshchilov & Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / max(1, epochs))))


def _cuts(epoch: float, lr_every: float) -> int:
    """Return ⌊epoch / lr_every⌋, with a tolerance of 1e-9 for rounding."""
    return math.floor(epoch / lr_every + 1e-9)
