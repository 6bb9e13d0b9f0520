"""Chart of accuracy after dropping, fusing or compensating units, against sparsity, a panel per group."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import TYPE_CHECKING, Any

from secateur.core.extras import need
from secateur.core.tables import percent
from secateur.report import theme
from secateur.report.charts.drawing import ChartRow, dressed, how_many, inline, some

if TYPE_CHECKING:
    import altair as alt


def accuracy_by_way(rows: Iterable[ChartRow]) -> alt.FacetChart:
    """Return a chart of top-1 against the fraction cut of a group, a line per way and a panel per group.

    `rows` are {"panel", "way", "sparsity", "top1"}, fractions; several rows of one point (seeds) become their mean.
    The first way is the whole model, drawn dashed. Raises `InputError` for no rows.
    """
    need("altair", for_="A chart")
    import altair as alt

    points = _means(some(rows))
    ways, panels = (list(dict.fromkeys(row[key] for row in points)) for key in ("way", "panel"))
    dashes = (theme.DASHED, *[theme.SOLID] * (len(ways) - 1))
    amounts = sorted({row["sparsity"] for row in points})
    ticks = alt.Axis(format=".2~%", grid=False, values=amounts if len(amounts) <= 6 else alt.Undefined)
    base = alt.Chart().encode(
        x=alt.X("sparsity:Q", title="Cut of the group", axis=ticks).scale(zero=False, nice=False, padding=12),
        y=alt.Y("top1:Q", title="Top-1 on the test split").axis(format=".0%", tickCount=5),
        stroke=alt.Stroke("way:N", title=None).scale(domain=ways),
    )
    lines = base.mark_line().encode(
        strokeDash=alt.StrokeDash("way:N", title=None).scale(**theme.scale(ways, dashes))
    )
    marks = base.mark_point().encode(
        fill=alt.Fill("way:N", title=None).scale(domain=ways),
        shape=alt.Shape("way:N", title=None).scale(**theme.scale(ways, theme.SHAPES)),
        tooltip=[
            alt.Tooltip("panel:N", title="Group"),
            alt.Tooltip("way:N", title="Way"),
            alt.Tooltip("sparsity:Q", title="Cut", format=".1%"),
            alt.Tooltip("top1:Q", title="Top-1", format=".2%"),
        ],
    )
    chart: alt.FacetChart = (
        alt.LayerChart(layer=[lines, marks])
        .properties(width=190, height=150)
        .facet(facet=alt.Facet("panel:N", title=None, sort=panels), data=inline(points), columns=3)
    )
    return dressed(chart, _in_words(points, ways, panels))


def _means(rows: Iterable[ChartRow]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, float], list[float]] = {}
    for row in rows:
        groups.setdefault((row["panel"], row["way"], row["sparsity"]), []).append(row["top1"])
    return [
        {"panel": panel, "way": way, "sparsity": sparsity, "top1": fmean(found)}
        for (panel, way, sparsity), found in groups.items()
    ]


def _in_words(points: list[dict[str, Any]], ways: list[str], panels: list[str]) -> str:
    means = [f"{way} {percent(fmean(row['top1'] for row in points if row['way'] == way))}" for way in ways]
    return (
        f"Top-1 against the fraction cut of {how_many(len(panels), len(panels), 'groups', '')}. "
        f"Mean over all points: {', '.join(means)}."
    )
