"""The settings of a training run, as one validated value.

Its fields are the recipe's keys, the command line's options and the library's keyword arguments.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from secateur.core.options import MACHINE
from secateur.data import AUGMENTATIONS
from secateur.methods import METHODS
from secateur.training.duration import Duration
from secateur.training.optimizers import OPTIMIZERS
from secateur.training.schedules import SCHEDULES


class TrainConfig(BaseModel):
    """Hyper-parameters of `secateur.train`; the defaults suit small image networks trained from scratch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: Annotated[int, Field(ge=0, description="passes over the training data")] = 10
    batch_size: Annotated[int, Field(ge=1, description="batch size, shared out over all devices")] = 128
    optimizer: Annotated[str, Field(description="sgd, adam or adamw")] = "sgd"
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False, description="peak learning rate")] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum of sgd")] = 0.9
    nesterov: Annotated[bool, Field(description="Nesterov momentum for sgd")] = False
    weight_decay: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="L2 penalty, decoupled in adamw")
    ] = 5e-4
    schedule: Annotated[str, Field(description="constant, step, multistep, cosine or halving")] = "cosine"
    warmup: Annotated[str, Field(description="linear warm-up, as 2ep, 500it or 3%")] = "0ep"
    lr_every: Annotated[float, Field(gt=0, description="epochs between cuts in step and halving")] = 30.0
    lr_factor: Annotated[float, Field(gt=0, le=1, description="factor of a cut in step and multistep")] = 0.1
    milestones: Annotated[tuple[float, ...], Field(description="epochs of the cuts in multistep")] = ()
    start_at: Annotated[
        str, Field(description="moment of schedule and data order to begin at, as 2ep, 500it or 3%")
    ] = "0it"
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="label smoothing")] = 0.0
    clip_norm: Annotated[float | None, Field(gt=0, description="clip the gradient's L2 norm to this")] = None
    ema: Annotated[float | None, Field(gt=0, lt=1, description="decay of averaged weights, the result")] = (
        None
    )
    method: Annotated[
        str | None, Field(description="prune while training by this method; secateur methods lists them")
    ] = None
    amount: Annotated[float | None, Field(ge=0, le=1, description="fraction the method is to remove")] = None
    options: Annotated[
        dict[str, Any],
        Field(description="option of the method, or include, keep or layers, as name=value"),
    ] = {}
    augment: Annotated[str | None, Field(description="augmentation; the data set's own when left out")] = None
    precision: Annotated[str, Field(description="32-true, bf16-mixed or 16-mixed")] = "32-true"
    channels_last: Annotated[bool, Field(description="channels-last memory layout for image models")] = True
    seed: Annotated[int, Field(ge=0, description="seed of initialisation, order and augmentation")] = 0
    evaluate_every: Annotated[str, Field(description="time between rows of the log, as 1ep or 100it")] = "1ep"
    accelerator: Annotated[str, Field(description="auto, cpu, cuda, …", json_schema_extra=MACHINE)] = "auto"
    devices: Annotated[int, Field(ge=1, description="processes to train in", json_schema_extra=MACHINE)] = 1
    checkpoint_every: Annotated[
        str, Field(description="time between checkpoints, as 1ep or 200it", json_schema_extra=MACHINE)
    ] = "1ep"
    snapshots: Annotated[
        tuple[str, ...],
        Field(description="moments to keep the weights of, as 0it 500it 3%", json_schema_extra=MACHINE),
    ] = ()
    tensorboard: Annotated[
        bool, Field(description="also write TensorBoard files", json_schema_extra=MACHINE)
    ] = False

    @field_validator("warmup", "start_at", "evaluate_every", "checkpoint_every", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> str:
        return str(Duration.parse(value))

    @field_validator("snapshots")
    @classmethod
    def _moments(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(Duration.parse(each)) for each in value)

    @field_validator("optimizer")
    @classmethod
    def _optimizer(cls, value: str) -> str:
        OPTIMIZERS[value]
        return value

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, value: str) -> str:
        SCHEDULES[value]
        return value

    @field_validator("augment")
    @classmethod
    def _augment(cls, value: str | None) -> str | None:
        if value is not None:
            AUGMENTATIONS[value]
        return value

    @model_validator(mode="after")
    def _method(self) -> TrainConfig:
        if self.method is None:
            if self.amount is not None or self.options:
                raise ValueError(
                    "an amount and options are a method's: name one with method, such as gradual"
                )
            return self
        if Duration.parse(self.start_at).value:
            raise ValueError(f"the method {self.method} begins with the training: leave start_at out")
        own = {name: value for name, value in self.options.items() if name not in TARGET_OPTIONS}
        entry = METHODS[self.method]
        entry.check(self.amount, own)
        if entry.make.reshapes and self.ema is not None:
            raise ValueError(
                f"an average of the weights can't follow the method {self.method}: leave ema out"
            )
        return self

    @field_validator("precision")
    @classmethod
    def _precision(cls, value: str) -> str:
        if value not in PRECISIONS:
            raise ValueError(f"there is no precision '{value}': choose {', '.join(PRECISIONS)}")
        return value


TARGET_OPTIONS = ("include", "keep", "layers")
"""Options of every method beside its own: the selection of its parameters."""
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
