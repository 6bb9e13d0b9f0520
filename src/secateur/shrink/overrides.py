"""Sizes written in a module's code, replaced while the code runs.

A `forward` that says `x.view(-1, 64, 7)` needs another number once channels are gone, and its source can't be
changed. `Resized` runs that forward with the numbers of a plan put in the place of its own. It is a callable kept as
the module's attribute `forward`, so the module keeps its class, and a deep copy has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from secateur.core.errors import InputError, ModelError
from secateur.graph.forwards import Forward, call_name
from secateur.shrink.plan import ArgumentPath, Override

Changes = Mapping[Callable[..., Any], Mapping[int, Sequence[tuple[ArgumentPath, int | float]]]]


def resize(model: nn.Module, overrides: Iterable[Override]) -> None:
    """Put `Resized` in the place of the forward of each module that `overrides` name.

    Raises `ModelError` where the model has no such module, `InputError` where torch has no such function.
    """
    of: dict[nn.Module, list[Override]] = {}
    for override in overrides:
        of.setdefault(model.get_submodule(override.module), []).append(override)
    for module, own in of.items():
        Resized(module, own)


class Resized(Forward):
    """A module's own forward, run with other numbers in its calls of torch functions."""

    def __init__(self, module: nn.Module, overrides: Iterable[Override]) -> None:
        super().__init__(module)
        self.expected: dict[Callable[..., Any], int] = {}
        changes: dict[Callable[..., Any], dict[int, list[tuple[ArgumentPath, int | float]]]] = {}
        for override in overrides:
            calls = changes.setdefault(function_called(override.function), {})
            calls.setdefault(override.nth, []).append((override.argument, override.value))
            if override.of:
                self.expected[function_called(override.function)] = override.of
        self.changes: Changes = changes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward that was there, its numbers replaced.

        Raises `ModelError` where it makes another number of these calls than when the plan was made: which of them
        is meant can't be told then.
        """
        with _Replacing(self.changes) as replacing:
            outputs = self.original(*args, **kwargs)
        for function, number in self.expected.items():
            if replacing.calls[function] != number:
                raise ModelError(
                    f"{type(self.module).__name__} calls {call_name(function)} {replacing.calls[function]} times here, "
                    f"and did so {number} times on the example inputs it was pruned with, so that its sizes can't be "
                    "told: prune it with inputs like these."
                )
        return outputs


class _Replacing(TorchFunctionMode):
    """Counts the calls of the functions concerned, and replaces numbers in the arguments of some."""

    def __init__(self, changes: Changes) -> None:
        super().__init__()
        self.changes = changes
        self.calls = dict.fromkeys(changes, 0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.changes:
            nth = self.calls[func]
            self.calls[func] += 1
            for place, value in self.changes[func].get(nth, ()):
                if isinstance(place[0], int):
                    args = _put(args, place, value)
                else:
                    kwargs = _put(kwargs, place, value)
        return func(*args, **kwargs)


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
