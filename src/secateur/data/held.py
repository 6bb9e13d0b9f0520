"""The data set read last stays in memory while several steps want it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from secateur.data.dataset import Dataset

_LAST: ContextVar[dict[Any, Dataset] | None] = ContextVar("the data set read last", default=None)


@contextmanager
def held() -> Iterator[None]:
    """Keep what is read within the block until another data set is read, or the outermost such block ends.

    What was decoded once need not be decoded again: a run, its levels and what is measured of them share it. Nobody
    may change its tensors in place; nothing in the toolkit does.

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
    """Return what `read` gives, or gave for the same `key` the last time something was read within `held`."""
    last = _LAST.get()
    if last is None:
        return read()
    if key not in last:
        last.clear()  # first, so that there are never two in memory
        last[key] = read()
    return last[key]
