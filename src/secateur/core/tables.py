"""Tables: rows of raw numbers, and columns with titles and formats.

A `Table` is written to a terminal (rich), as markdown, HTML, LaTeX, CSV or JSON. CSV and JSON hold the raw numbers
(fractions, not percent; bytes, not kB), without rounding; the others hold formatted, aligned text. A value that is
missing or not a number is "–" in text, empty in CSV and `null` in JSON.

>>> columns = [Column("run", "Run"), Column("top1", "Top-1", PERCENT)]
>>> table = Table(columns, [{"run": "dense", "top1": 0.9173}])
>>> print(table.markdown())
| Run   |   Top-1 |
| :---- | ------: |
| dense | 91.73 % |
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from secateur.core.extras import need
from secateur.core.visible import visible

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.table import Table as RichTable

Align = Literal["left", "right"]
MISSING_CELL = "–"


@dataclass(frozen=True)
class Format:
    """The text form and alignment of one kind of value.

    `write` takes the value and, for a measured quantity, its spread.
    """

    write: Callable[..., str]
    align: Align = "right"


def percent(fraction: float) -> str:
    """Write a fraction as percent with two decimals: 0.9173 → "91.73 %"."""
    return f"{100 * fraction:.2f} %"


def points(difference: float) -> str:
    """Write a difference of two fractions as signed percentage points: -0.0021 → "−0.21 pp"."""
    text = f"{100 * difference:+.2f} pp"
    return text.replace("-", "−")


def count(number: float) -> str:
    """Write a whole number with thousands separators: 61706 → "61,706"."""
    return f"{round(number):,}"


def si(number: float) -> str:
    """Write a number with an SI prefix and four significant digits: 416520 → "416.5 k"."""
    return _prefixed(number, ["", " k", " M", " G", " T", " P"])


def size(number: float) -> str:
    """Write a number of bytes in decimal units: 246824 → "246.8 kB"."""
    return _prefixed(number, [" B", " kB", " MB", " GB", " TB", " PB"])


def milliseconds(median: float, iqr: float | None = None) -> str:
    """Write seconds as milliseconds with three significant digits: 0.000412 → "0.412 ms".

    The interquartile range, where given, follows to the same decimal: "0.412 ms (IQR 0.026)".
    """
    decimals = min(6, max(0, 2 - math.floor(math.log10(1000 * median)))) if median > 0 else 0
    spread = "" if iqr is None else f" (IQR {1000 * iqr:.{decimals}f})"
    return f"{1000 * median:.{decimals}f} ms{spread}"


def number(value: float) -> str:
    """Write a dimensionless number with four significant digits, large and whole ones whole: "2.020", "25,510"."""
    whole = isinstance(value, int) or 1000 <= abs(value) < 1e15
    text = f"{value:,.0f}" if whole else f"{value:#.4g}".rstrip(".")
    return f"−{text[1:]}" if text.startswith("-") else text


def change(format: Format) -> Format:
    """The format of a value after a change, with the value before as the column's `spread`: "400 → 100 (25.0 %)"."""

    def write(after: float, before: float | None = None) -> str:
        if before is None:
            return format.write(after)
        part = f" ({100 * after / before:.1f} %)" if before and format is not PERCENT else ""
        return f"{format.write(before)} → {format.write(after)}{part}"

    return Format(write)


TEXT = Format(str, "left")
PERCENT = Format(percent)
POINTS = Format(points)
COUNT = Format(count)
SI = Format(si)
BYTES = Format(size)
MILLISECONDS = Format(milliseconds)
NUMBER = Format(number)


@dataclass(frozen=True)
class Column:
    """One column: the rows' key, the title, and the format.

    `align` overrides the alignment of the format. `help` is a short description (a tooltip in HTML). `spread` is the
    key of the spread of a measured quantity or of its value before a change, or the keys of the ends of an interval.
    """

    key: str
    title: str
    format: Format = TEXT
    align: Align | None = None
    help: str = ""
    spread: str | tuple[str, ...] = ()

    @property
    def side(self) -> Align:
        """The alignment of the column."""
        return self.align or self.format.align

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of a row in the column."""
        return (self.key, *([self.spread] if isinstance(self.spread, str) else self.spread))

    def cell(self, row: Mapping[str, Any]) -> str:
        """The text of the column's cell in `row`."""
        value, *spread = (_present(row.get(key)) for key in self.keys)
        if value is None:
            return MISSING_CELL
        if isinstance(value, float) and math.isinf(value):
            return "∞" if value > 0 else "−∞"
        return visible(self.format.write(value, *spread))


@dataclass(frozen=True)
class Table:
    """Columns and rows; a row maps keys to raw values, each of which may be missing."""

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]

    def titles(self) -> list[str]:
        """The titles of the columns."""
        return [visible(column.title) for column in self.columns]

    def cells(self) -> list[list[str]]:
        """The formatted text of every cell, row by row."""
        return [[column.cell(row) for column in self.columns] for row in self.rows]

    def without_empty_columns(self) -> Table:
        """The table without the columns in which every value is missing."""
        kept = [c for c in self.columns if any(_present(row.get(c.key)) is not None for row in self.rows)]
        return replace(self, columns=kept)

    def transposed(self) -> Table:
        """The transposed table: one column per row, the first column's cells as titles; every cell is text."""
        grid = self.cells()
        columns = [Column("0", self.columns[0].title)]
        columns += [Column(str(i), cells[0], align="right") for i, cells in enumerate(grid, start=1)]
        rows = [
            {"0": column.title, **{str(i): cells[number] for i, cells in enumerate(grid, start=1)}}
            for number, column in enumerate(self.columns)
            if number > 0
        ]
        return Table(columns, rows)

    def records(self) -> list[dict[str, Any]]:
        """The raw values of the columns; missing and non-finite ones are None."""
        keys = [key for column in self.columns for key in column.keys]
        return [{key: _finite(row.get(key)) for key in keys} for row in self.rows]

    def rich(self, title: str | None = None) -> RichTable:
        """The table for a terminal; cells are taken literally, never as rich markup."""
        need("rich", for_="A table for a terminal")
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=None if title is None else Text(title))
        for column, heading in zip(self.columns, self.titles(), strict=True):
            table.add_column(Text(heading), justify=column.side, no_wrap=column.side == "right")
        for cells in self.cells():
            table.add_row(*(Text(cell) for cell in cells))
        return table

    def markdown(self) -> str:
        """The table as GitHub-flavoured markdown, with padded cells."""
        grid = [[_markdown(cell) for cell in row] for row in [self.titles(), *self.cells()]]
        widths = [max(4, *map(len, cells)) for cells in zip(*grid, strict=True)]
        rules = [
            "-" * (width - 1) + ":" if column.side == "right" else ":" + "-" * (width - 1)
            for column, width in zip(self.columns, widths, strict=True)
        ]
        padded = [
            [
                cell.rjust(width) if column.side == "right" else cell.ljust(width)
                for cell, column, width in zip(row, self.columns, widths, strict=True)
            ]
            for row in grid
        ]
        return "\n".join("| " + " | ".join(row) + " |" for row in [padded[0], rules, *padded[1:]])

    def latex(self) -> str:
        """The table as a LaTeX `tabular` with the rules of the package booktabs."""
        sides = "".join(column.side[0] for column in self.columns)
        grid = [self.titles(), *self.cells()]
        head, *rows = (" & ".join(map(_latex, cells)) + r" \\" for cells in grid)
        lines = [
            rf"\begin{{tabular}}{{{sides}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines)

    def csv(self) -> str:
        """The raw values as CSV, with the keys as header."""
        text = io.StringIO()
        keys = [key for column in self.columns for key in column.keys]
        writer = csv.DictWriter(text, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records())
        return text.getvalue()

    def json(self) -> str:
        """The raw values as a JSON list of objects."""
        return json.dumps(self.records(), indent=2, ensure_ascii=False, allow_nan=False)

    def html(self, caption: str) -> Markup:
        """The table as an escaped HTML `<table>`, the first column as row headings."""
        need("markupsafe", for_="A table as HTML")
        from markupsafe import Markup

        head = Markup().join(_heading(column) for column in self.columns)
        body = Markup().join(
            Markup("<tr>{}</tr>").format(
                Markup().join(
                    Markup(
                        '<th scope="row" class="{}">{}</th>' if first else '<td class="{}">{}</td>'
                    ).format(column.side, cell)
                    for first, column, cell in zip(
                        [True] + [False] * len(cells), self.columns, cells, strict=False
                    )
                )
            )
            for cells in self.cells()
        )
        return Markup(
            "<table><caption>{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>"
        ).format(caption, head, body)


def _heading(column: Column) -> Markup:
    from markupsafe import Markup

    tooltip = Markup(' title="{}"').format(column.help) if column.help else Markup()
    return Markup('<th scope="col" class="{}"{}>{}</th>').format(column.side, tooltip, visible(column.title))


LATEX = {
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "→": r"$\to$",
    "×": r"$\times$",
    "≤": r"$\le$",
    "α": r"$\alpha$",
    "κ": r"$\kappa$",
    "λ": r"$\lambda$",
    "²": "$^2$",
    "●": r"$\bullet$",
    "∞": r"$\infty$",
    MISSING_CELL: "--",
}
"""Character → LaTeX, for characters with a special meaning in LaTeX or none."""


def _latex(cell: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in cell)


def _markdown(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").split())


def _present(value: Any) -> Any:
    """Return the value, None for NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _prefixed(value: float, units: Sequence[str]) -> str:
    """Write `value` with the unit that leaves fewer than four digits before the point."""
    power = 0
    while abs(float(f"{value:.4g}")) >= 1000 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return digits + units[power]
