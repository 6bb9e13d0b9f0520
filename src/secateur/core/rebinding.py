"""Functions and weak references of a copied model that still speak of the model it was copied from.

`copy.deepcopy` takes both as they are: `self.act = lambda x: self.scale * x` would have the copy compute with the
scale of the original, and `weakref.ref(self)` would lead there.
"""

from __future__ import annotations

import functools
import weakref
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from secateur.core.held import CLOSED
from secateur.core.modules import modules_of

DEPTH = 4
"""How deep in the objects that a module holds functions are looked for."""


class Rebinding:
    """Has a copy's functions and weak references speak of the copy.

    `memo` says by id what stands for each object of the original `model`, as `copy.deepcopy` leaves it.
    """

    def __init__(self, model: nn.Module, memo: dict[int, Any]) -> None:
        self.memo = memo
        self.homes = {id(vars(module)): module for module in modules_of(model)}
        for module in self.homes.values():
            self.within(module, vars(module), DEPTH)

    def within(self, owner: Any, fields: dict[Any, Any] | list[Any], depth: int) -> None:
        """Rebind what an object of the original holds, in the object's copy; shared objects are left alone."""
        copied = self.memo.get(id(owner), owner)
        if copied is owner:
            return
        for key, value in list(fields.items() if isinstance(fields, dict) else enumerate(fields)):
            new = self.of(value)
            if new is not value:
                _put(copied, key, new)
            elif depth and not isinstance(value, (*CLOSED, Tensor)):
                inner = value if isinstance(value, dict | list) else getattr(value, "__dict__", {})
                self.within(value, inner, depth - 1)

    def of(self, value: Any) -> Any:
        """Return what stands for a function or weak reference: itself where it does not speak of the model."""
        if isinstance(value, FunctionType):
            return self.function(value)
        if isinstance(value, functools.partial) and isinstance(value.func, FunctionType):
            func, copied = self.function(value.func), self.memo.get(id(value), value)
            return value if func is value.func else functools.partial(func, *copied.args, **copied.keywords)
        if type(value) is weakref.ref and id(value()) in self.memo:
            return weakref.ref(self.memo[id(value())])
        if type(value) is weakref.ProxyType and id(getattr(value, "__dict__", None)) in self.homes:
            return weakref.proxy(self.memo[id(self.homes[id(value.__dict__)])])
        return value

    def function(self, function: FunctionType) -> FunctionType:
        """Return a function that holds the copy's modules and tensors in place of the original's."""
        if id(function) in self.memo:
            return self.memo[id(function)]  # type: ignore[no-any-return]
        self.memo[id(function)] = function  # one that holds itself is done once
        cells = [cell for cell in function.__closure__ or () if _filled(cell)]
        given = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        held = [*(cell.cell_contents for cell in cells), *given]
        if any(self.held(value) is not value for value in held):
            self.memo[id(function)] = self._with_others(function)
        return self.memo[id(function)]  # type: ignore[no-any-return]

    def _with_others(self, function: FunctionType) -> FunctionType:
        cells = function.__closure__ or ()
        new = FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            tuple(map(self.held, function.__defaults__ or ())) or None,
            tuple(CellType(self.held(cell.cell_contents)) if _filled(cell) else cell for cell in cells),
        )
        new.__kwdefaults__ = {
            name: self.held(value) for name, value in (function.__kwdefaults__ or {}).items()
        }
        return functools.update_wrapper(new, function)  # type: ignore[return-value]

    def held(self, value: Any) -> Any:
        """Return what stands for something a function holds: a module, a tensor, a method, or several of these."""
        if isinstance(value, nn.Module | Tensor):
            return self.memo.get(id(value), value)
        if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self.memo.get(id(value.__self__), value.__self__))
        if type(value) in (list, tuple) and any(isinstance(each, nn.Module | Tensor) for each in value):
            return type(value)(map(self.held, value))
        return self.of(value)


def _put(owner: Any, key: Any, value: Any) -> None:
    if isinstance(owner, dict | list):
        owner[key] = value
    else:
        vars(owner)[key] = value


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
