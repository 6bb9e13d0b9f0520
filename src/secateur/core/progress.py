"""Progress bars, shown on terminals only.

The whole package has one console, on standard error, so that standard output holds results only. `SECATEUR_QUIET=1`
(or `--quiet`) switches the bars off; without the package rich there are none.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from secateur.core.errors import MissingExtraError
from secateur.core.extras import need

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

T = TypeVar("T")
_running: list[str] = []


class Bar:
    """One running bar: `advance` adds steps, `say` changes the text after the numbers.

    This one is silent.
    """

    def advance(self, steps: int = 1) -> None:
        """Move the bar on by `steps`."""

    def say(self, text: str) -> None:
        """Show `text` (a loss, an accuracy) behind the bar."""


class _ShownBar(Bar):
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(self._task, steps)

    def say(self, text: str) -> None:
        self._progress.update(self._task, note=text)


@cache
def console() -> Console:
    """Return the console. Raises `MissingExtraError` without rich."""
    need("rich", for_="Writing to a terminal")
    with _random_state_kept():
        from rich.console import Console

        return Console(stderr=True, highlight=False)


@contextmanager
def bar(title: str, total: int, completed: int = 0, shown: bool = True) -> Iterator[Bar]:
    """Show a progress bar of `total` steps while the block runs, unless the console is no terminal.

    A bar inside another one is not shown.
    """
    if not shown or _running or os.environ.get("SECATEUR_QUIET") or not _on_a_terminal():
        yield Bar()
        return
    with _random_state_kept():
        shown_bars = _progress()
    with shown_bars as progress:
        _running.append(title)
        try:
            yield _ShownBar(progress, progress.add_task(title, total=total, completed=completed, note=""))
        finally:
            _running.pop()


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yield `items` under a progress bar."""
    with bar(title, total) as running:
        for item in items:
            yield item
            running.advance()


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the state of Python's generator, from which rich draws names of its styles."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def _on_a_terminal() -> bool:
    try:
        return console().is_terminal
    except MissingExtraError:
        return False


def _progress() -> Progress:
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
    )
    return progress.Progress(*columns, console=console())
