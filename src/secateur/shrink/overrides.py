"""Sizes written in a module's code, replaced while the code runs.

A method that says `x.view(-1, 64, 7)` needs another number once channels are gone, and its source can't be changed.
`Resized` runs that method with the numbers of a plan put in the place of its own. It is a callable kept as the module's
attribute of that name, such as `forward` or `encode`, so the module keeps its class, and a deep copy has its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from secateur.core.errors import InputError, ModelError
from secateur.core.modules import submodule
from secateur.graph.forwards import Forward, call_name
from secateur.shrink.plan import ArgumentPath, Override

Changes = Mapping[Callable[..., Any], Sequence[Override]]


def resize(model: nn.Module, overrides: Iterable[Override]) -> None:
    """Put `Resized` in the place of each method that `overrides` name.

    Raises `ModelError` where the model has no such module, `InputError` where torch has no such function.
    """
    of: dict[tuple[nn.Module, str], list[Override]] = {}
    for override in overrides:
        of.setdefault((submodule(model, override.module), override.method), []).append(override)
    for (module, method), own in of.items():
        Resized(module, own, method)


class Resized(Forward):
    """A module's own method, run with other numbers in its calls of torch functions."""

    def __init__(self, module: nn.Module, overrides: Iterable[Override], method: str = "forward") -> None:
        super().__init__(module, method)
        self.expected: dict[Callable[..., Any], int] = {}
        changes: dict[Callable[..., Any], list[Override]] = {}
        for override in overrides:
            changes.setdefault(function_called(override.function), []).append(override)
            if override.of:
                self.expected[function_called(override.function)] = override.of
        self.changes: Changes = changes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the method that was there, its numbers replaced; once, where it calls itself.

        Raises `ModelError` where it makes another number of these calls than when the plan was made: which of them
        is meant can't be told then.
        """
        if id(self) in _running():
            return self.original(*args, **kwargs)
        _running().add(id(self))
        calls = dict.fromkeys(self.changes, 0)
        try:
            with _Replacing(self.changes, calls):
                outputs = self.original(*args, **kwargs)
        finally:
            _running().remove(id(self))
        for function, number in self.expected.items():
            if calls[function] not in (0, number):  # none, where the code kept what an earlier run computed
                raise ModelError(
                    f"{type(self.module).__name__} calls {call_name(function)} {calls[function]} times here, "
                    f"and did so {number} times on the example inputs it was pruned with, so that its sizes can't be "
                    "told: prune it with inputs like these."
                )
        return outputs


_of_thread = threading.local()


def _running() -> set[int]:
    """Return the ids of the methods that run in this thread with numbers replaced."""
    if not hasattr(_of_thread, "methods"):
        _of_thread.methods = set()
    methods: set[int] = _of_thread.methods
    return methods


class _Replacing(TorchFunctionMode):
    """Counts the calls of the functions concerned, and replaces numbers in the arguments of some."""

    def __init__(self, changes: Changes, calls: dict[Callable[..., Any], int]) -> None:
        super().__init__()
        self.changes, self.calls = changes, calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.changes:
            nth = self.calls[func]
            self.calls[func] += 1
            for override in self.changes[func]:
                positional = isinstance(override.argument[0], int)
                if not _is_meant(override, nth, args if positional else kwargs):
                    continue
                if positional:
                    args = _put(args, override.argument, override.value)
                else:
                    kwargs = _put(kwargs, override.argument, override.value)
        return func(*args, **kwargs)


def _is_meant(override: Override, nth: int, tree: Any) -> bool:
    """Whether an override is for the call that is the `nth` of its function, with these arguments."""
    if override.instead_of is None:
        return nth == override.nth
    for step in override.argument:
        if isinstance(tree, slice):
            tree = getattr(tree, str(step))
        elif isinstance(tree, dict):
            tree = tree.get(step)
        elif isinstance(tree, list | tuple) and isinstance(step, int) and step < len(tree):
            tree = tree[step]
        else:
            return False
    return isinstance(tree, int | float) and tree == override.instead_of


def _put(tree: Any, place: ArgumentPath, value: int | float) -> Any:
    """Return a nest of arguments with `value` at `place`."""
    if not place:
        return value
    step, rest = place[0], place[1:]
    if isinstance(tree, slice):
        ends = {"start": tree.start, "stop": tree.stop, "step": tree.step}
        return slice(*_put(ends, place, value).values())
    if isinstance(tree, dict):
        return {**tree, step: _put(tree[step], rest, value)}
    items = [_put(item, rest, value) if at == step else item for at, item in enumerate(tree)]
    return items if isinstance(tree, list) else tuple(items)


def function_called(name: str) -> Callable[..., Any]:
    """Return the torch function that `call_name` calls `name`. Raises `InputError` where there is none."""
    function: Any = torch
    for step in name.split(".")[1:]:
        function = getattr(function, step, None)
    if not callable(function) or call_name(function) != name:
        raise InputError(f"The plan overrides a call of {name}, and torch has no such function.")
    return function  # type: ignore[no-any-return]
