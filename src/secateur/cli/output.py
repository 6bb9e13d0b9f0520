"""What the command line prints: results on standard output, in the format asked for."""

from __future__ import annotations

import json

from rich.console import Console, RenderableType
from rich.measure import Measurement

from secateur.cli.streams import writes_unicode
from secateur.core.errors import InputError
from secateur.core.tables import Table
from secateur.core.visible import visible
from secateur.steps import Outcome

OUTPUT_FORMATS = ("text", "json", "csv", "markdown", "latex")
WIDE = 10_000


def show(outcome: Outcome, format: str = "text") -> None:
    """Print what a step has to say on standard output, in one of `OUTPUT_FORMATS`."""
    if format not in OUTPUT_FORMATS:
        raise InputError(f"There is no format '{format}': choose {', '.join(OUTPUT_FORMATS)}.")
    if format == "json":
        say(json.dumps(outcome.record, indent=2, ensure_ascii=not writes_unicode()))
    elif format == "csv" and outcome.table is not None:
        say(outcome.table.csv(), end="")
    elif format == "markdown" and outcome.table is not None:
        say(outcome.table.markdown())
    elif format == "latex" and outcome.table is not None:
        say(outcome.table.latex())
    else:
        if outcome.tree is not None:
            _print(outcome.tree)
        elif outcome.table is not None:
            _print_table(outcome.table)
        for line in outcome.lines:
            say(line)


def say(text: str, end: str = "\n") -> None:
    """Print a text on standard output, control characters in it escaped."""
    print(visible(text), end=end)


def _print_table(table: Table) -> None:
    """Print a table in full: turned on its side where the terminal is too narrow for its columns."""
    console = Console(highlight=False)
    if console.is_terminal and _width(console, table.rich()) > console.width and 1 < len(table.rows) <= 4:
        table = table.transposed()
    _print(table.rich())


def _print(drawing: RenderableType) -> None:
    """Print a table or a tree; no line is broken where nobody's terminal asks for it."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _width(console, drawing))
    console.print(drawing)


def _width(console: Console, drawing: RenderableType) -> int:
    return Measurement.get(console, console.options.update(max_width=WIDE), drawing).maximum
