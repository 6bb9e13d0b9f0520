"""Registries of models: built-in architectures by name, other libraries by prefix.

`MODELS` maps a name ("lenet5") to an `Architecture`, registered by decorating its factory with `model`.
`SOURCES` maps a prefix ("torchvision" in "torchvision:resnet18") to a `ModelSource`, which turns the rest of the
name into a factory and its arguments, registered by decorating that resolver with `source`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.core.registry import Registry

InputShape = tuple[int, ...]
ModelArguments = dict[str, Any]
Factory = Callable[..., nn.Module]
Resolver = Callable[[str, "int | None", "InputShape | None", ModelArguments], tuple[Factory, ModelArguments]]


@dataclass(frozen=True)
class Architecture:
    """A built-in architecture.

    `factory` may take any of `num_classes` (int), `input_shape` (the shape of one input), `in_channels` (int)
    and `image_size` (height, width), all optional; it is given those in its signature. Its other parameters are
    arguments for the user to set. `input_shape` is the default input.
    """

    name: str
    factory: Factory
    input_shape: InputShape
    summary: str
    paper: str = ""


@dataclass(frozen=True)
class ModelSource:
    """A library of models, written `prefix:NAME`.

    `resolve(name, num_classes, input_shape, arguments)` returns the factory and the arguments to call it
    with; `untrained(name, arguments)` returns the arguments that give the same architecture without fetching
    trained weights. `names` lists the source's models for suggested corrections (default: none).
    """

    prefix: str
    resolve: Resolver
    usage: str
    summary: str
    untrained: Callable[[str, ModelArguments], ModelArguments]
    names: Callable[[], list[str]] = list


MODELS: Registry[Architecture] = Registry("model")
SOURCES: Registry[ModelSource] = Registry("source of models")


def model(
    name: str, *, input_shape: InputShape, summary: str, paper: str = ""
) -> Callable[[Factory], Factory]:
    """Register the decorated factory as the architecture `name` of default input `input_shape`, without the batch."""

    def register(factory: Factory) -> Factory:
        MODELS.add(name, Architecture(name, factory, input_shape, summary, paper))
        return factory

    return register


def source(
    prefix: str,
    *,
    usage: str,
    summary: str,
    untrained: Callable[[str, ModelArguments], ModelArguments],
    names: Callable[[], list[str]] = list,
) -> Callable[[Resolver], Resolver]:
    """Register the decorated function as the resolver of names that start with `prefix:`."""

    def register(resolve: Resolver) -> Resolver:
        SOURCES.add(prefix, ModelSource(prefix, resolve, usage, summary, untrained, names))
        return resolve

    return register
