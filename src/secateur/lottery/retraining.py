"""How a level is trained: settings that follow from those of the dense training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from secateur.core.registry import Registry
from secateur.training import Duration, TrainConfig
from secateur.training.learning_rate import learning_rate


@dataclass(frozen=True)
class Course:
    """The dense training, and what a level's training may need to know beside it.

    `rewind_to` is a moment of it, `finetune` the epochs of a fine-tuning (those of the dense training when None).
    `per_epoch` counts the batches of an epoch, and `saved` is MACs of the dense model ÷ MACs at weights that are left.
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
"""Name → the settings in which a level's training differs from the dense one. The optimiser always starts fresh."""


@TRAININGS.register("rewound")
def rewound(course: Course) -> dict[str, Any]:
    """From the moment `rewind_to` on: schedule, order and augmentation as they were then."""
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
    """From the beginning, for as many MACs as the dense training: round(epochs · MACs ÷ MACs left), all stretched."""
    config, epochs = course.config, round(course.config.epochs * course.saved)
    factor = epochs / max(1, config.epochs)
    warmup = Duration.parse(config.warmup)
    stretch = 1.0 if warmup.unit == "%" else factor  # percent are of the whole already
    return {
        "epochs": epochs,
        "milestones": tuple(factor * milestone for milestone in config.milestones),
        "lr_every": factor * config.lr_every,
        "warmup": str(Duration(stretch * warmup.value, warmup.unit)),
        "start_at": "0it",
    }
