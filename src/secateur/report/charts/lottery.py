"""Chart of lottery tickets: a measure against the fraction left, a line for each start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from secateur.core.extras import need
from secateur.core.tables import percent
from secateur.report import theme
from secateur.report.charts.drawing import (
    ChartRow,
    band,
    captioned,
    dressed,
    how_many,
    inline,
    reference,
    some,
)

if TYPE_CHECKING:
    import altair as alt

LEVEL_MEASURES = {
    "top1": ("Top-1 on the test split", ".1%", percent),
    "early_stop": ("Iteration of the lowest test loss", ",d", lambda value: f"{value:,.0f}"),
}
"""Measure → title of its axis, the axis's format, and a function that formats a value in a sentence."""
DENSE_START = "dense"
TICKS = (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
LABELLED_LEVELS = 8
"""Most levels labelled on the axis."""


def tickets(rows: Iterable[ChartRow], measure: str = "top1", what: str = "weights") -> alt.LayerChart:
    """Return a chart of a measure of `LEVEL_MEASURES` against the fraction left, on a log axis falling to the right.

    `rows` are {"start", "left", "value"}; the mean of those of start "dense" is the horizontal reference. Several of
    one point (seeds) become their mean in a band from minimum to maximum. `what` (default weights) is the plural noun
    in the axis's title. Raises `InputError` without rows of other starts.
    """
    need("altair", for_="A chart")
    import altair as alt

    known = list(rows)
    points = some(_averaged(row for row in known if row["start"] != DENSE_START))
    dense = [float(row["value"]) for row in known if row["start"] == DENSE_START]
    starts = list(dict.fromkeys(row["start"] for row in points))
    title, format, write = LEVEL_MEASURES[measure]
    left = f"{what.capitalize()} left"
    ticks = alt.Axis(
        format=".2~%", grid=False, values=_ticks({row["left"] for row in points}), labelOverlap="greedy"
    )
    x = alt.X("left:Q", title=left, axis=ticks).scale(type="log", reverse=True, nice=False, padding=12)
    y = (
        alt.Y("value:Q", title=title)
        .axis(format=format, tickCount=6)
        .scale(zero=False, nice=False, padding=20)
    )
    base = alt.Chart(inline(points)).encode(x=x)
    fill = alt.Fill("start:N", title="Start").scale(domain=starts)
    stroke = alt.Stroke("start:N", title="Start").scale(domain=starts)
    lines = base.mark_line().encode(y=y, stroke=stroke)
    marks = base.mark_point().encode(
        y=y,
        stroke=stroke,
        fill=fill,
        shape=alt.Shape("start:N", title="Start").scale(**theme.scale(starts, theme.SHAPES)),
        tooltip=[
            alt.Tooltip("start:N", title="Start"),
            alt.Tooltip("left:Q", title=left, format=".2%"),
            alt.Tooltip("value:Q", title=title, format=format),
            alt.Tooltip("runs:Q", title="Runs"),
        ],
    )
    caption = band((row["runs"] for row in points), "runs")
    layers = [*reference(dense, write), lines, marks, *captioned([caption])]
    if any(row["runs"] > 1 for row in points):
        layers.insert(0, base.mark_area(aria=False).encode(y="low:Q", y2="high:Q", fill=fill))
    return dressed(
        alt.LayerChart(layer=layers),
        _in_words(points, dense, f"{title} against the {what} left", write, caption),
    )


def _ticks(places: Iterable[float]) -> list[float]:
    """Return the levels if they are few or have fewer than three of `TICKS` among them, else these `TICKS`."""
    levels = sorted(places)
    among = [tick for tick in TICKS if levels[0] / 1.1 < tick < levels[-1] * 1.1]
    return levels if len(levels) <= LABELLED_LEVELS or len(among) < 3 else among


def _averaged(rows: Iterable[ChartRow]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, float], list[ChartRow]] = {}
    for row in rows:
        groups.setdefault((row["start"], float(f"{row['left']:.4g}")), []).append(row)
    return [
        {
            "start": start,
            "left": left,
            "value": fmean(row["value"] for row in group),
            "low": min(row["value"] for row in group),
            "high": max(row["value"] for row in group),
            "runs": len(group),
        }
        for (start, left), group in groups.items()
    ]


def _in_words(
    points: Sequence[ChartRow], dense: Sequence[float], title: str, write: Any, caption: str
) -> str:
    starts = list(dict.fromkeys(row["start"] for row in points))
    sparsest = [
        min((row for row in points if row["start"] == start), key=lambda row: row["left"]) for start in starts
    ]
    reached = ", ".join(f"{row['start']} {write(row['value'])} at {percent(row['left'])}" for row in sparsest)
    against = f" The dense model: {write(fmean(dense))}." if dense else ""
    counted = how_many(len(starts), len(starts), "starts", "")
    drawn = f" Each line: {caption}." if caption else ""
    return f"{title}, {counted}: {reached}.{against}{drawn}"
