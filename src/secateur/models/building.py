"""Building of models from their names."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur.core.errors import InputError
from secateur.core.modules import parameters_of
from secateur.core.registry import unknown
from secateur.models import user
from secateur.models.call import call, parameters
from secateur.models.registry import MODELS, SOURCES, Factory, InputShape, ModelArguments
from secateur.models.sources import weights_only


def build(
    name: str, *, num_classes: int | None = None, input_shape: tuple[int, ...] | None = None, **args: Any
) -> nn.Module:
    """Build the model `name`, in training mode, on torch's current default device.

    `name` is a registered architecture ("lenet5"), a model of a library ("torchvision:resnet18", "timm:resnet18",
    "hf:PATH_OR_ID"), or a factory in the user's code ("package.module:factory"), which is imported.

    `num_classes` and `input_shape` (of one input, without the batch; (channels, height, width) for images)
    fit the model to the data; None keeps the model's own default. `args` go to the factory. The same torch
    seed gives the same weights. The model's attribute `secateur_spec` holds `name`, `args`, `num_classes` and
    `input_shape` for its files; it is absent if `args` are no JSON.

    Raises `InputError` for an unknown name, an unknown or illegal argument; `ModelError` if the model
    can't be built; `MissingExtraError` if the source's library isn't installed.
    """
    _check_sizes(name, num_classes, input_shape)
    model = _build(name, num_classes, input_shape, args)
    spec = {"name": name, "args": args, "num_classes": num_classes, "input_shape": input_shape}
    with suppress(TypeError, ValueError):  # no JSON
        model.secateur_spec = json.loads(json.dumps(spec))
    return model


def _build(
    name: str, num_classes: int | None, input_shape: InputShape | None, args: ModelArguments
) -> nn.Module:
    prefix, colon, rest = name.partition(":")
    if user.is_user_code(name):
        with user.working_folder():
            return call(name, *user.resolve(name, num_classes, args))
    if not colon:
        return call(name, *_own(name, num_classes, input_shape, args))
    if not rest:
        raise InputError(f"'{name}' names no model: write {SOURCES[prefix].usage}.")
    with weights_only():
        return call(name, *SOURCES[prefix].resolve(rest, num_classes, input_shape, args))


def without_pretraining(name: str, args: ModelArguments) -> ModelArguments:
    """Return the arguments that build the architecture of `build(name, **args)` without fetching trained weights.

    They serve to read a model with its weights back from a file.
    """
    prefix, colon, rest = name.partition(":")
    return SOURCES[prefix].untrained(rest, args) if colon and prefix in SOURCES else dict(args)


@dataclass(frozen=True)
class ModelListing:
    """One row of the list of models; `input_shape` and `parameters` are None for a source of many models."""

    name: str
    input_shape: InputShape | None
    parameters: int | None
    summary: str
    paper: str = ""


def names() -> list[ModelListing]:
    """Return a row for each built-in architecture, then one for each source and one for user code.

    Parameters are counted at the default input and number of classes, on the meta device: no weights are
    allocated and no random numbers drawn.
    """
    with torch.device("meta"):
        own = [
            ModelListing(entry.name, entry.input_shape, _count(build(entry.name)), entry.summary, entry.paper)
            for entry in MODELS.values()
        ]
    sources = [ModelListing(source.usage, None, None, source.summary) for source in SOURCES.values()]
    return [
        *own,
        *sources,
        ModelListing("package.module:factory", None, None, "your own code, imported by name"),
    ]


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in parameters_of(model))


def check_name(name: str) -> None:
    """Raise `InputError` for a name without a colon that is no built-in architecture; others are not checked."""
    if ":" not in name and name not in MODELS:
        foreign = [f"{source.prefix}:{known}" for source in SOURCES.values() for known in source.names()]
        exact = [other for other in foreign if other.endswith(f":{name}")]
        raise InputError(unknown("model", name, exact or [*MODELS, *foreign], "the list of models"))


def _own(
    name: str, num_classes: int | None, input_shape: InputShape | None, arguments: ModelArguments
) -> tuple[Factory, ModelArguments]:
    check_name(name)
    architecture = MODELS[name]
    shape = architecture.input_shape if input_shape is None else input_shape
    facts: ModelArguments = {"input_shape": shape}
    if num_classes is not None:
        facts["num_classes"] = num_classes
    wanted = parameters(architecture.factory)
    if wanted.keys() & {"in_channels", "image_size"}:
        if len(shape) != 3:
            raise InputError(
                f"The model {name} takes images of (channels, height, width), not inputs of {shape}."
            )
        facts |= {"in_channels": shape[0], "image_size": shape[1:]}
    for given in arguments:
        if given in ("in_channels", "image_size"):
            raise InputError(
                f"The {given} of {name} follows from input_shape: give (channels, height, width) there."
            )
    return architecture.factory, {key: fact for key, fact in facts.items() if key in wanted} | arguments


def _check_sizes(name: str, num_classes: int | None, input_shape: InputShape | None) -> None:
    if num_classes is not None and not _positive(num_classes):
        raise InputError(
            f"num_classes of the model {name} must be a whole number of 1 or more, not {num_classes!r}."
        )
    if input_shape is not None and not (input_shape and all(map(_positive, input_shape))):
        raise InputError(
            f"input_shape of the model {name} must hold whole numbers of 1 or more, not {input_shape!r}."
        )


def _positive(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1
