"""Progress bars, shown on terminals only.

The whole package has one console, on standard error, so that standard output holds results only. `SECATEUR_QUIET=1`
(or `--quiet`) switches the bars off.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
console = Console(stderr=True, highlight=False)
_running: list[str] = []


class Bar:
    """One running bar: `advance` adds steps, `say` changes the text after the numbers."""

    def __init__(self, progress: Progress, task: int) -> None:
        self._progress = progress
        self._task = task

    def advance(self, steps: int = 1) -> None:
        """Advance the bar by `steps`."""
        self._progress.advance(self._task, steps)  # type: ignore[arg-type]

    def say(self, text: str) -> None:
        """Show `text` (a loss, an accuracy) behind the bar."""
        self._progress.update(self._task, note=text)  # type: ignore[arg-type]


@contextmanager
def bar(title: str, total: int, completed: int = 0, shown: bool = True) -> Iterator[Bar]:
    """Show a progress bar of `total` steps while the block runs, unless the console is no terminal.

    A bar inside another one is not shown.
    """
    quiet = not shown or _running or bool(os.environ.get("SECATEUR_QUIET")) or not console.is_terminal
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=bool(quiet)) as progress:
        if not quiet:
            _running.append(title)
        try:
            yield Bar(progress, progress.add_task(title, total=total, completed=completed, note=""))
        finally:
            if not quiet:
                _running.pop()


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yield `items` under a progress bar."""
    with bar(title, total) as running:
        for item in items:
            yield item
            running.advance()
