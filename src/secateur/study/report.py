"""A study as one offline HTML page: chart, table, all cells with their numbers, and the study file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateur.core.environment import command_line, environment
from secateur.core.files import read_text, write_text
from secateur.core.tables import Column, Table
from secateur.report.content import ReportContent, Section
from secateur.study.conduct import Standing
from secateur.study.pivot import pivot
from secateur.study.quantities import is_fraction, written
from secateur.study.statistics import summarise
from secateur.study.summary import REPEATS, Flat, default_value, flat, state


def page(
    standing: Standing,
    study: Path,
    out: Path,
    *,
    value: str | None = None,
    baseline: str | None = None,
    charts: Path | None = None,
) -> int:
    """Write the page to `out`, and the chart below `charts` if given, and return the page's size in bytes.

    `value` (default: the last top-1) and `baseline` are those of `pivot`, whose errors are raised, with `StoreError`
    if a file can't be written.
    """
    from secateur.report.charts import save
    from secateur.report.content import Figure
    from secateur.report.html import render

    cells, variables = flat(standing), list(standing.study.variables)
    table = pivot(cells, variables, value=value, baseline=baseline)
    value = value or default_value(cells)
    points, across = _points(cells, variables, value)
    chart = _chart(points, across, value)
    caption = "Means over repeats, in a band of ± one standard deviation."
    figure = Figure("study", f"{value} against {across}", chart, caption, _numbers(points, across, value))
    done, all_of_them = len(standing.finished()), len(standing.study.cells)
    listed = state(standing)
    content = ReportContent(
        title=f"Study {standing.study.name}",
        recipe=read_text(study),
        command=command_line() or f"secateur study run {study}",
        environment=environment(),
        summary=[f"{done} of {all_of_them} cells are done."],
        sections=[
            Section("What came of it", {f"{value}, mean ± standard deviation": table}, [figure]),
            Section("All cells", {"Every cell with its numbers": listed}),
        ],
    )
    text = render(content)
    if charts is not None:
        save(chart, charts / "study")
    write_text(out, text)
    return len(text.encode())


def _points(cells: list[Flat], variables: list[str], value: str) -> tuple[list[dict[str, Any]], str]:
    """Return the chart's points and the variable of its x axis, the last that does not repeat."""
    rest = [name for name in variables if name not in REPEATS] or variables
    across, ways = rest[-1], rest[:-1]
    groups: dict[tuple[str, Any], list[float]] = {}
    for cell in cells:
        if cell.get(value) is not None:
            way = ", ".join(str(cell.get(name)) for name in ways) or value
            groups.setdefault((way, cell.get(across)), []).append(float(cell[value]))
    points = []
    for (way, x), values in groups.items():
        found = summarise(values)
        apart = found.deviation or 0.0
        points.append(
            {
                "way": way,
                "x": x if isinstance(x, int | float) else str(x),
                "mean": found.mean,
                "low": found.mean - apart,
                "high": found.mean + apart,
                "n": found.n,
            }
        )
    return points, across


def _chart(points: list[dict[str, Any]], across: str, value: str) -> Any:
    from secateur.report.charts.study import value_by_way

    return value_by_way(points, x=across, y=value, fraction=is_fraction(value))


def _numbers(points: list[dict[str, Any]], across: str, value: str) -> Table:
    columns = [Column("way", "Way"), Column("x", across), Column("mean", value, written(value))]
    return Table(columns, points)
