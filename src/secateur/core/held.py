"""Tensors that a module holds without registering them: as attributes, in lists and dicts, inside other objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CLOSED = (
    str, bytes, int, float, complex, type(None), type, nn.Module, ModuleType, FunctionType, BuiltinFunctionType,
    MethodType,
)  # fmt: skip
"""Objects that are not looked into: modules hold their own, and the rest hold none."""


def tensors_in(tree: Any, depth: int = 4) -> Iterator[Tensor]:
    """Yield the tensors in a nest of lists, tuples, sets, dicts and objects that a module holds as an attribute."""
    return _tensors_in(tree, depth, set())


def _tensors_in(tree: Any, depth: int, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif depth and not isinstance(tree, CLOSED) and id(tree) not in seen:
        seen.add(id(tree))
        for _, item in parts_of(tree):
            yield from _tensors_in(item, depth - 1, seen)


def parts_of(tree: Any) -> Iterable[tuple[str, Any]]:
    """Return what an object holds, with the way to it in Python: "[3]" of a list, ".field" of an object."""
    if isinstance(tree, Mapping):
        return [(f"[{key!r}]", item) for key, item in tree.items()]
    if isinstance(tree, list | tuple | set | frozenset):
        return [(f"[{at}]", item) for at, item in enumerate(tree)]
    return [(f".{name}", item) for name, item in _fields(tree).items()]


def _fields(record: Any) -> dict[str, Any]:
    """Return the attributes of an object itself, those in slots included."""
    slots = [name for kind in type(record).__mro__ for name in _slots(kind)]
    own = {name: getattr(record, name) for name in slots if name[:2] != "__" and hasattr(record, name)}
    return own | dict(getattr(record, "__dict__", {}))


def _slots(kind: type) -> Iterable[str]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


class HeldTensors(TorchFunctionMode):
    """While a model is copied, has `held(tensor)` stand for every tensor the copy comes to, however deep it lies."""

    def __init__(self, held: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.held = held

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = self.held(tensor)
            return memo[id(tensor)]
        if func == Tensor.data.__get__ and isinstance(args[0], nn.Parameter):  # type: ignore[attr-defined]
            return self.held(args[0]).detach()  # `Parameter.__deepcopy__` asks for it
        return func(*args, **(kwargs or {}))
