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
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

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

    def leave(self, ran: Iterable[Cache[Any]]) -> None:
        """Empty the caches that may hold sizes of the trace, and those of functions that `ran`, with its tensors."""
        if self.looked_into:
            self.forget()
        for cache in ran:
            cache.cache_clear()


def cache_before(frame: FrameType) -> Cache[Any] | None:
    """Return the cache in front of the function that runs in a frame, if it has one.

    It is looked for in the function's module and its classes, in the class of what the function is called on, and in
    the caller's variables and the attributes of what that is called on.
    """
    for each in _within_reach(frame):
        each = each.__func__ if isinstance(each, staticmethod | classmethod) else each
        if type(each) is Cache and getattr(each.__wrapped__, "__code__", None) is frame.f_code:
            return each
    return None


def _within_reach(frame: FrameType) -> Iterator[Any]:
    own, caller = list(frame.f_globals.values()), frame.f_back
    yield from own
    for kind in (each for each in own if isinstance(each, type)):
        yield from vars(kind).values()
    for at in (frame, caller):
        if at is not None:
            yield from list(at.f_locals.values())
            owner = at.f_locals.get(next(iter(at.f_code.co_varnames), ""))
            yield from getattr(owner, "__dict__", {}).values()
            for kind in type(owner).__mro__:
                yield from vars(kind).values()


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
