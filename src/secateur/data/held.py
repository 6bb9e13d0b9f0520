"""A one-entry cache of decoded data sets, shared by the steps of a `held` block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from secateur.data.dataset import Dataset

_LAST: ContextVar[dict[Any, Dataset] | None] = ContextVar("the data set read last", default=None)


@contextmanager
def held() -> Iterator[None]:
    """Cache the data set read last within the block, until another is read or the outermost block ends.

    A run, its levels and their measurements share the decoded tensors, which must not be changed in place.

    >>> import secateur
    >>> with held():
    ...     first, again = secateur.load_data("digits"), secateur.load_data("digits")
    >>> first.train.inputs is again.train.inputs
    True
    """
    if _LAST.get() is not None:
        yield
        return
    token = _LAST.set({})
    try:
        yield
    finally:
        _LAST.reset(token)


def once(key: Any, read: Callable[[], Dataset]) -> Dataset:
    """Return `read()`, or within `held` the cached data set if it was read with the same hashable `key`."""
    last = _LAST.get()
    if last is None:
        return read()
    if key not in last:
        last.clear()  # first, so that there are never two in memory
        last[key] = read()
    return last[key]
