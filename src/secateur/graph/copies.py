"""Copies of a model that share or fake its tensors: all of its Python, none of its memory.

A ghost has the model's modules, attributes and hooks, but other tensors in place of its own. Tracing may tag its
attributes and run it without the user's model ever noticing.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import ModelError, reason_of
from secateur.graph.sizes import Attribute, TracedSize, own


def copy_with(
    model: nn.Module,
    substitute: Callable[[Tensor], Tensor],
    held: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> nn.Module:
    """Return a copy of `model` in which `substitute(tensor)` stands for each parameter and buffer.

    A tensor used in several places is substituted once, so ties stay. `held(tensor)` stands for those a module
    holds as plain attributes, which by default are shared.
    Raises `ModelError` for a model that can't be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if type(value) in (dict, OrderedDict) and not value:
                memo[id(value)] = type(value)()  # a module has a dozen of them
            for tensor in tensors_in(value):
                memo.setdefault(id(tensor), held(tensor))
    for tensor in (*model.parameters(), *model.buffers()):
        memo[id(tensor)] = substitute(tensor)
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(f"{type(model).__name__} can't be copied ({reason_of(error)}).") from error
    forget_caches(copied)
    return copied


def forget_caches(model: nn.Module) -> None:
    """Have modules that keep computed tensors for later passes drop them, as they do when training begins."""
    for module in model.modules():
        held = (value for value in vars(module).values() if type(value) is dict)
        if any(isinstance(tensor, Tensor) for value in held for tensor in value.values()):
            modes = [(each, each.training) for each in module.modules()]
            module.train()
            for each, mode in modes:
                each.training = mode


def tag_attributes(ghost: nn.Module, model: nn.Module) -> dict[str, int]:
    """Turn every integer attribute of every module of a ghost into a `TracedSize`; return path → value of all of them.

    Also integers in tuples and lists, and those of objects a module holds, such as a configuration; but not of
    objects the ghost shares with the `model` it is a copy of.
    """
    found: dict[str, int] = {}
    seen = {id(value) for module in model.modules() for value in vars(module).values()}
    for name, module in ghost.named_modules():
        attributes = vars(module)
        for key, value in list(attributes.items()):
            if key.startswith("_") or key == "training":
                continue
            path = f"{name}:{key}"
            tagged = _tag(value, path, found)
            if tagged is not value:
                attributes[key] = tagged
            elif _is_record(value) and id(value) not in seen:
                seen.add(id(value))
                _tag_record(value, path, found)
    return found


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


def tensors_in(tree: Any, depth: int = 3) -> Iterator[Tensor]:
    """Yield the tensors in a nest of lists, tuples and dicts that a module holds as an attribute."""
    if isinstance(tree, Tensor):
        yield tree
    elif depth and isinstance(tree, Mapping):
        for item in tree.values():
            yield from tensors_in(item, depth - 1)
    elif depth and isinstance(tree, list | tuple):
        for item in tree:
            yield from tensors_in(item, depth - 1)


def is_plain_attention(module: nn.Module) -> bool:
    """Whether `module` runs torch's own multi-head attention."""
    return isinstance(module, nn.MultiheadAttention) and (
        type(module).forward is nn.MultiheadAttention.forward
    )


def like(tensor: Tensor, device: str) -> Tensor:
    """Return an uninitialised tensor of the same kind on a device: a parameter stays one."""
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
