"""Training settings of a level, derived from those of the dense training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from secateur.core.registry import Registry
from secateur.training import Duration, TrainConfig
from secateur.training.learning_rate import learning_rate


@dataclass(frozen=True)
class Course:
    """Inputs of a level's training settings: the dense training's `config` and facts of the level.

    `rewind_to` is a moment of the dense training (default 0it), `finetune` the epochs of a fine-tuning (None: those of
    the dense training). `per_epoch` is the number of batches per epoch, and `saved` the MACs of the dense model ÷ MACs
    at weights that are left.
    """

    config: TrainConfig
    per_epoch: int
    saved: float
    rewind_to: str = "0it"
    finetune: int | None = None

    def settings(self, training: str) -> TrainConfig:
        """Return the settings of a registered training."""
        plain = self.config.model_dump() | {"snapshots": ()}
        return TrainConfig(**(plain | TRAININGS[training](self)))


Training: TypeAlias = Callable[[Course], dict[str, Any]]
TRAININGS: Registry[Training] = Registry("training of a level")
"""Name → function of a `Course` to settings that differ from the dense training. The optimiser starts anew."""


@TRAININGS.register("rewound")
def rewound(course: Course) -> dict[str, Any]:
    """From the moment `rewind_to` on: the same schedule, order and augmentation as the dense training."""
    return {"start_at": course.rewind_to}


@TRAININGS.register("whole")
def whole(course: Course) -> dict[str, Any]:
    """From the beginning to the end."""
    return {"start_at": "0it"}


@TRAININGS.register("finetuned")
def finetuned(course: Course) -> dict[str, Any]:
    """For `finetune` epochs at the last learning rate of the dense training."""
    config, per_epoch = course.config, course.per_epoch
    last = max(0, per_epoch * config.epochs - 1)
    return {
        "epochs": config.epochs if course.finetune is None else course.finetune,
        "lr": learning_rate(last, per_epoch, config),
        "schedule": "constant",
        "warmup": "0ep",
        "start_at": "0it",
    }


@TRAININGS.register("longer")
def longer(course: Course) -> dict[str, Any]:
    """From the beginning, for as many MACs as the dense training: round(epochs · `saved`), schedule stretched alike."""
    config, epochs = course.config, round(course.config.epochs * course.saved)
    factor = epochs / max(1, config.epochs)
    warmup = Duration.parse(config.warmup)
    stretch = 1.0 if warmup.unit == "%" else factor  # percents scale by themselves
    return {
        "epochs": epochs,
        "milestones": tuple(factor * milestone for milestone in config.milestones),
        "lr_every": factor * config.lr_every,
        "warmup": str(Duration(stretch * warmup.value, warmup.unit)),
        "start_at": "0it",
    }
