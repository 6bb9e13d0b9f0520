"""Caches of the model's code (`functools.lru_cache`), kept apart from a trace.

A cache finds results by numbers that are equal, and the sizes of a trace are more than their numbers: a result found
for an equal size of another layer, or another model, would remember the wrong place. So caches are emptied before each
look-up by a size of the trace, and after the trace, when they may hold such sizes or tensors without numbers.
Emptying costs a cache's owner a computation; numbers drawn at random and kept by size are drawn anew. Tables that a
model fills by hand can't be told from its data and stay; what they hold of another trace are plain numbers (see
`sizes.py`).
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from secateur.core.held import tensors_in

Cache = functools._lru_cache_wrapper

LEFT_ALONE = frozenset({*sys.stdlib_module_names, "torch", "numpy", "scipy", "sympy", "secateur"})
"""Packages whose caches hold nothing of a model's sizes."""


class Caches:
    """The caches that code of the model may look into while it is traced."""

    def __init__(self) -> None:
        self.looked_into = False
        self.without_numbers: dict[Cache[Any], int] = {}  # cache → how many results it had computed by then

    @functools.cached_property
    def known(self) -> list[Cache[Any]]:
        """The caches there are; found when first asked for, as few models have any."""
        return list(_caches())

    def forget(self) -> None:
        """Empty all caches with numbers in their keys: a size of the trace is about to be looked up."""
        self.looked_into = True
        for cache in self.known:
            misses = cache.cache_info().misses
            if self.without_numbers.get(cache, 0) == misses:
                continue
            if any(map(_has_number, gc.get_referents(cache))):
                cache.cache_clear()
            else:
                self.without_numbers[cache] = misses

    def leave(self, made_tensors: bool) -> None:
        """Empty caches that may hold sizes of the trace or, if its code made some of nothing else, its tensors."""
        if self.looked_into:
            self.forget()
        for cache in _caches() if self.looked_into or made_tensors else ():
            if any(map(_is_ghost, _held(cache))):
                cache.cache_clear()


def forget_tensors() -> None:
    """Empty the caches that hold tensors: they are of one model's widths, in the type that it ran in."""
    for cache in _caches():
        if next(_held(cache), None) is not None:
            cache.cache_clear()


def cached_code() -> set[CodeType]:
    """Return the code of all functions whose results are cached."""
    functions = (getattr(cache, "__wrapped__", None) for cache in _caches())
    return {function.__code__ for function in functions if isinstance(function, FunctionType)}


def _caches() -> Iterator[Cache[Any]]:
    for each in gc.get_objects():
        if type(each) is Cache and (each.__module__ or "").partition(".")[0] not in LEFT_ALONE:
            yield each


def _has_number(part: Any) -> bool:
    """Whether a part of a cache is a number, a key with a number in it, or a table of such keys."""
    if isinstance(part, dict | tuple | list):
        return any(
            isinstance(item, int | float) or (isinstance(item, tuple) and _has_number(item)) for item in part
        )
    return isinstance(part, int | float)


def _held(cache: Cache[Any]) -> Iterator[Tensor]:
    """Yield the tensors among a cache's results."""
    for part in gc.get_referents(cache):
        yield from tensors_in(part)


def _is_ghost(tensor: Tensor) -> bool:
    """Whether a tensor has no numbers."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)
