"""Several example inputs: other sizes, other methods to enter a model by.

A cut is right for the ways through a model's code that its examples take. One example takes one way; several may differ
in resolution, in length, in what they leave out, or in the method that is called (`encode`, `decode`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from secateur.core.brief import Brief
from secateur.core.errors import InputError, ModelError, reason_of
from secateur.measure.inputs import ModelInputs, arguments, forward, shapes


@dataclass(frozen=True, repr=False)
class Example(Brief):
    """The arguments of one call of a model: of its forward, or of another `method`."""

    inputs: ModelInputs
    method: str = "forward"

    def entry(self, model: nn.Module) -> Callable[..., Any]:
        """Return what is called: the model, or a method of it."""
        return model if self.method == "forward" else getattr(model, self.method)

    def __str__(self) -> str:
        return f"{self.method}({shapes(self.inputs)})" if self.method != "forward" else shapes(self.inputs)


@dataclass(frozen=True)
class Examples:
    """The calls that a cut is coupled and proved for, the first of them the one that costs are told of."""

    calls: tuple[Example, ...]

    @classmethod
    def of(cls, model: nn.Module, example_inputs: ModelInputs | Examples) -> Examples:
        """Read example inputs: one call's arguments, a list of several calls' or a dict from method to arguments.

        A list is the positional arguments of one call where the forward requires that many tensors, or takes any
        number. A dict names methods where all of its keys are methods of the model and not all of them arguments of its
        forward. A call of the forward, if there is one, comes first. Raises `InputError` for an empty list or dict.
        """
        if isinstance(example_inputs, Examples):
            return example_inputs
        if isinstance(example_inputs, list | Mapping) and not example_inputs:
            raise InputError("The example inputs are empty: give at least one tensor the model takes.")
        calls = tuple(_calls(model, example_inputs))
        return cls(tuple(sorted(calls, key=lambda call: call.method != "forward")))

    @property
    def first(self) -> ModelInputs:
        """The arguments of the first call."""
        return self.calls[0].inputs

    def __len__(self) -> int:
        return len(self.calls)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.calls)

    def __str__(self) -> str:
        return "; ".join(map(str, self.calls))


def call(model: nn.Module, example: Example) -> Any:
    """Return what a model gives for an example. Raises `ModelError`, naming the shapes, if the call fails."""
    if example.method == "forward":
        return forward(model, example.inputs)
    args, kwargs = arguments(example.inputs)
    try:
        return example.entry(model)(*args, **kwargs)
    except Exception as error:
        raise ModelError(
            f"The model does not run {example} ({reason_of(error)}): give what it takes."
        ) from error


def _calls(model: nn.Module, inputs: ModelInputs) -> Iterator[Example]:
    if isinstance(inputs, Mapping) and _names_methods(model, inputs):
        for method, given in inputs.items():
            several = given if isinstance(given, list) else [given]
            yield from (Example(each, method) for each in several)
    elif isinstance(inputs, list) and not _is_one_call(model, inputs):
        yield from (Example(each) for each in inputs)
    else:
        yield Example(inputs)


def _names_methods(model: nn.Module, inputs: Mapping[str, Any]) -> bool:
    named = all(isinstance(name, str) and _is_method(model, name) for name in inputs)
    return named and not set(inputs) <= set(_parameters(model))


def _is_method(model: nn.Module, name: str) -> bool:
    own = name == "forward" or not hasattr(nn.Module, name)
    return own and callable(getattr(type(model), name, None))


def _is_one_call(model: nn.Module, inputs: list[Any]) -> bool:
    """Whether a list is the arguments of one call: tensors, as many as the forward requires, or any number of them."""
    parameters = _parameters(model).values()
    if len(inputs) == 1 or any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
        return not all(isinstance(each, tuple | Mapping) for each in inputs)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [
        each for each in parameters if each.default is inspect.Parameter.empty and each.kind in positional
    ]
    return len(required) == len(inputs) and all(isinstance(each, Tensor) for each in inputs)


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # no Python function
        return {}
