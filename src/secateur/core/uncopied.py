"""What of a model can't be copied: locks, open files, generators, and whatever refuses to be.

A copy that never leaves the package shares it with the model; one that is handed out can't, and the attribute is named.
"""

from __future__ import annotations

import copy
from collections import ChainMap
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from secateur.core.errors import reason_of
from secateur.core.held import CLOSED, parts_of
from secateur.core.modules import modules_of, named_modules


class Uncopied(NamedTuple):
    """An object that can't be copied: how it is reached from the model, it, and why."""

    path: str
    value: Any
    reason: str

    def __str__(self) -> str:
        kind = "module" if isinstance(self.value, nn.Module) else "attribute"
        if not self.path:
            return f"its class has its own way to be copied, which fails: {self.reason}"
        return f"its {kind} {self.path}, of type {type(self.value).__name__}: {self.reason}"


def uncopied(model: nn.Module, memo: Mapping[int, Any]) -> list[Uncopied]:
    """Return the innermost objects held by a model that can't be copied, else the modules that can't.

    `memo` has what need not be copied.
    """
    known = {**memo, **{id(module): module for module in modules_of(model)}}
    seen: set[int] = set()
    held = [
        found
        for path, module in named_modules(model)
        for key, value in vars(module).items()
        for found in _stuck(value, f"{path}.{key}".lstrip("."), known, seen)
    ]
    return held or [each for each in map(partial(_refusing, known), named_modules(model)) if each is not None]


def _refusing(known: dict[int, Any], named: tuple[str, nn.Module]) -> Uncopied | None:
    """Return a module that refuses to be copied, though all that it holds can be."""
    path, module = named
    try:
        copy.deepcopy(module, ChainMap({}, {key: each for key, each in known.items() if each is not module}))  # type: ignore[arg-type]
    except Exception as error:
        return Uncopied(path, module, reason_of(error))
    return None


def _stuck(value: Any, path: str, known: dict[int, Any], seen: set[int]) -> Iterator[Uncopied]:
    if id(value) in known or id(value) in seen:
        return
    try:
        copy.deepcopy(value, ChainMap({}, known))  # type: ignore[arg-type]
    except Exception as error:
        seen.add(id(value))
        within = () if isinstance(value, CLOSED) else parts_of(value)
        inside = [found for way, part in within for found in _stuck(part, path + way, known, seen)]
        yield from inside or [Uncopied(path, value, reason_of(error))]


def from_parts(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy a model module by module, of classes whose own way to be copied fails; `memo` as for `copy.deepcopy`."""
    originals = list(modules_of(model))
    for module in originals:
        memo[id(module)] = object.__new__(type(module))
    for module in originals:
        for key, value in vars(module).items():
            vars(memo[id(module)])[key] = copy.deepcopy(value, memo)
    copied: nn.Module = memo[id(model)]
    return copied
