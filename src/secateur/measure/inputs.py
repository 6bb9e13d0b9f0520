"""Forward passes of a model on example inputs, and temporary masks.

Example inputs are a tensor, a tuple or list of positional arguments, or a mapping of keyword arguments (such as the
output of a tokenizer). All forward passes of this package go through `forward`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from secateur.core.errors import InputError, ModelError
from secateur.sparsity.masks import Masks

ModelInputs: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


def arguments(example_inputs: ModelInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split example inputs into positional and keyword arguments; a packed sequence is one argument."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list) and not isinstance(example_inputs, PackedSequence):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def forward(model: nn.Module, example_inputs: ModelInputs) -> Any:
    """Return the model's output. Raises `ModelError`, naming the input shapes, if the call fails."""
    args, kwargs = arguments(example_inputs)
    try:
        return model(*args, **kwargs)
    except Exception as error:
        reason = str(error).strip().split("\n")[0].rstrip(".") or "no message"
        raise ModelError(
            f"The model does not run on example inputs of shape {shapes(example_inputs)} "
            f"({type(error).__name__}: {reason}): give inputs of the shape and dtype it takes, on its device."
        ) from error


def batch_size(example_inputs: ModelInputs) -> int:
    """Return the number of samples: the first dimension of the first tensor that is no scalar; 0 without one."""
    args, kwargs = arguments(example_inputs)
    return next((v.shape[0] for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.ndim), 0)


def with_batch(example_inputs: ModelInputs, batch: int) -> ModelInputs:
    """Return the example inputs with `batch` samples, repeated in order or cut.

    The batch dimension is the first; tensors of another first dimension than the first tensor's, and arguments that
    are no tensors, are unchanged. Raises `InputError` if no tensor has a batch dimension.
    """
    args, kwargs = arguments(example_inputs)
    given = batch_size(example_inputs)
    if not given:
        raise InputError(
            "The example inputs hold no tensor with a batch dimension: give at least one sample."
        )
    index = torch.arange(batch) % given

    def resized(value: Any) -> Any:
        batched = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == given
        return value[index.to(value.device)] if batched else value

    if isinstance(example_inputs, Mapping):
        return {name: resized(value) for name, value in kwargs.items()}
    return tuple(resized(value) for value in args)


def shapes(example_inputs: ModelInputs) -> str:
    """Return the shapes of example inputs as text: "[1, 3, 32, 32]", "[2, 8], [2, 8]", "input_ids=[2, 8]"."""
    args, kwargs = arguments(example_inputs)
    parts = [_shape(value) for value in args] + [f"{name}={_shape(value)}" for name, value in kwargs.items()]
    return ", ".join(parts) or "nothing"


@contextmanager
def masked(model: nn.Module, masks: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Zero the weights cut by `masks` within the block, and restore their values afterwards.

    Weights that are zero already, the usual case, are not written. Raises `InputError` if the masks belong
    to another model.
    """
    changed: list[tuple[nn.Parameter, Tensor, Tensor]] = []
    with torch.no_grad():
        for parameter, mask in Masks(masks or {}).of(model):
            left_over = (parameter != 0) & ~mask
            if left_over.any():
                changed.append((parameter, left_over, parameter[left_over]))
                parameter[left_over] = 0
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, left_over, values in changed:
                parameter[left_over] = values


def _shape(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
