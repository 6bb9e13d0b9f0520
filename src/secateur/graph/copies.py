"""Ghosts of a model that tracing runs: sizes that remember where they came from, tensors without numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.modules import modules_of, named_modules
from secateur.graph.sizes import Attribute, TracedSize, own


def tag_attributes(ghost: nn.Module, model: nn.Module) -> dict[str, int]:
    """Turn every integer attribute of every module of a ghost into a `TracedSize`; return path → value of all of them.

    Also integers in tuples and lists, and those of objects a module holds, such as a configuration; but not of
    objects the ghost shares with the `model` it is a copy of.
    """
    found: dict[str, int] = {}
    seen = {id(value) for module in modules_of(model) for value in vars(module).values()}
    for name, module in named_modules(ghost):
        attributes = vars(module)
        for key, value in list(attributes.items()):
            if key == "training" or (key.startswith("_") and _of_torch(module)):
                continue
            path = f"{name}:{key}"
            tagged = _tag(value, path, found)
            if tagged is not value:
                attributes[key] = tagged
            elif _is_record(value) and id(value) not in seen:
                seen.add(id(value))
                _tag_record(value, path, found)
    return found


def _of_torch(module: nn.Module) -> bool:
    """Whether a module is one of torch's layers, whose private attributes are torch's own, or derived from one."""
    homes = (each.__module__ for each in type(module).__mro__ if each is not nn.Module)
    return any(home.startswith("torch.") for home in homes)


def _tag_record(record: Any, path: str, found: dict[str, int]) -> None:
    fields = vars(record)
    for key, value in list(fields.items()):
        if not key.startswith("_"):
            fields[key] = _tag(value, f"{path}.{key}", found)


def _tag(value: Any, path: str, found: dict[str, int]) -> Any:
    value = own(value)
    if type(value) is int:
        found[path] = value
        return TracedSize(value, Attribute(path))
    if type(value) in (tuple, list) and value and all(type(item) is int for item in value):
        return type(value)(_tag(item, f"{path}.{index}", found) for index, item in enumerate(value))
    return value


def _is_record(value: Any) -> bool:
    """Whether `value` is an object with fields of its own, such as a configuration, and not torch's or Python's."""
    if isinstance(value, nn.Module | Tensor | type | Mapping) or not hasattr(value, "__dict__"):
        return False
    home = type(value).__module__.partition(".")[0]
    return not callable(value) and home not in ("torch", "builtins", "functools", "collections", "enum")


def is_plain_attention(module: nn.Module) -> bool:
    """Whether `module` runs torch's own multi-head attention."""
    return isinstance(module, nn.MultiheadAttention) and (
        type(module).forward is nn.MultiheadAttention.forward
    )


def like(tensor: Tensor, device: str) -> Tensor:
    """Return an uninitialised tensor of the same kind on a device: a parameter stays one."""
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
