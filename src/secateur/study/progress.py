"""Progress display of a study: its counts and running tasks.

On a terminal a live table; elsewhere a log line for each finished cell or failed task.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from secateur.core.progress import console
from secateur.core.visible import visible
from secateur.study.conduct import Standing

MOST_SHOWN = 12
"""Most running tasks shown."""


class Board:
    """A live table of a study."""

    def __init__(self, live: Live | None) -> None:
        self.live = live
        self.began = time.monotonic()
        self.started: dict[str, float] = {}
        self.standing: Standing | None = None
        self.done = 0

    def show(self, standing: Standing) -> None:
        """Redraw the table."""
        if self.standing is None:
            self.done = len(standing.done)
        self.standing = standing
        now = time.monotonic()
        self.started = {key: self.started.get(key, now) for key in standing.running}
        if self.live is not None:
            self.live.refresh()

    def __rich__(self) -> Group:
        """Return the current table; its clock advances between two changes."""
        return Group() if self.standing is None else self._drawn(self.standing)

    def _drawn(self, standing: Standing) -> Group:
        total, done = len(standing.study.tasks), len(standing.done)
        fresh, spent = done - self.done, time.monotonic() - self.began
        left = f", {_clock(spent / fresh * (total - done))} left" if fresh else ""
        failed = f", {len(standing.failed)} failed" if standing.failed else ""
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(visible(standing.study.name)),
            ProgressBar(total=max(1, total), completed=done, width=30),
            Text(
                f"{done}/{total} tasks, {len(standing.finished())}/{len(standing.study.cells)} cells{failed}, "
                f"{_clock(spent)}{left}"
            ),
        )
        running = Table.grid(padding=(0, 2))
        for key, task in list(standing.running.items())[:MOST_SHOWN]:
            cell = next(cell for cell in standing.study.cells if key in cell.tasks.values())
            values = ", ".join(f"{name} {value}" for name, value in cell.values.items())
            running.add_row(
                "  " + task.step.do, Text(visible(values)), _clock(time.monotonic() - self.started[key])
            )
        return Group(head, running)


class Log:
    """Log lines of newly finished cells and failed tasks."""

    def __init__(self) -> None:
        self.told = (0, 0)

    def show(self, standing: Standing) -> None:
        """Print a line if another cell is done, or another task has failed."""
        done, failed = len(standing.finished()), len(standing.failed)
        if (done, failed) != self.told and (done or failed):
            many = "task" if failed == 1 else "tasks"
            last = f", {failed} {many} failed: {list(standing.failed.values())[-1]}" if failed else ""
            line = f"{standing.study.name}: {done} of {len(standing.study.cells)} cells are done{last}"
            console().print(visible(line), soft_wrap=True, markup=False)
        self.told = done, failed


@contextmanager
def board() -> Iterator[Board | Log]:
    """Show a board within the block, or a log if the console is no terminal; neither with SECATEUR_QUIET."""
    if os.environ.get("SECATEUR_QUIET"):
        yield Board(None)
        return
    if not console().is_terminal:
        yield Log()
        return
    os.environ["SECATEUR_QUIET"] = "1"  # the tasks' own progress bars would write across the table
    drawn = Board(None)
    try:
        with Live(drawn, console=console(), refresh_per_second=2) as live:
            drawn.live = live
            yield drawn
    finally:
        del os.environ["SECATEUR_QUIET"]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
