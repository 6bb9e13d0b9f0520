"""Charts of linear mode connectivity: error along the line, and the barrier over the iteration of the split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from secateur.connectivity import MARGIN
from secateur.core.extras import need
from secateur.core.tables import percent
from secateur.report import theme
from secateur.report.charts.drawing import ChartRow, band, captioned, dressed, how_many, inline, level, some

if TYPE_CHECKING:
    import altair as alt


def error_along_path(rows: Iterable[ChartRow]) -> alt.LayerChart:
    """Return a chart of error against α on the line between two models, a curve per split.

    `rows` are those of `secateur.connectivity.path`. Raises `InputError` if there are none.
    """
    need("altair", for_="A chart")
    import altair as alt

    points = [
        {"alpha": row["alpha"], "split": split, "error": row[f"{split}_error"]}
        for row in some(rows)
        for split in ("train", "test")
    ]
    base = alt.Chart(inline(points)).encode(
        x=alt.X("alpha:Q", title="α, from the first model to the second").axis(tickCount=5, grid=False),
        y=alt.Y("error:Q", title="Error").axis(format=".2~%", tickCount=6).scale(zero=False),
    )
    highest = {
        split: max(row["error"] for row in points if row["split"] == split) for split in ("train", "test")
    }
    described = f"Error along the line between two models: at most {percent(highest['train'])} in training"
    layers = _curves(base, "split", ["train", "test"], "error", "alpha")
    chart: alt.LayerChart = alt.LayerChart(layer=layers)
    return dressed(chart, f"{described}, {percent(highest['test'])} in the test.")


def barrier_over_k(
    rows: Iterable[ChartRow], title: str = "k, iterations before the data order differs"
) -> alt.LayerChart:
    """Return a chart of the error barrier against the iteration k at which two trainings part, and the paper's 2 %.

    `rows` are {"series", "k", "barrier"}; several of one series and k (pairs, seeds) become their mean in a band from
    minimum to maximum, with their number in the caption. The scale of k is logarithmic, but reaches 0, with a note in
    the caption; `title` is the title of its axis. Raises `InputError` for no rows.
    """
    need("altair", for_="A chart")
    import altair as alt

    points = _gathered(some(rows))
    series, places = (list(dict.fromkeys(row[key] for row in points)) for key in ("series", "k"))
    first = min((k for k in places if k), default=1)
    base = alt.Chart(inline(points)).encode(
        x=alt.X("k:Q", title=title)
        .axis(values=sorted(places), format=",.9~r", grid=False, labelOverlap="greedy")
        .scale(type="symlog", constant=first, nice=False, padding=12),
        y=alt.Y("barrier:Q", title="Error barrier").axis(format=".2~%", tickCount=6),
    )
    margin = level(MARGIN, f"stable below {100 * MARGIN:g} %")
    caption = ["the scale is logarithmic, but reaches 0", *_caption(points)]
    curves = _curves(base, "series", series, "barrier", "k", ("pairs",))
    layers = [*margin, *curves, *captioned(caption)]
    if any(row["pairs"] > 1 for row in points):
        fill = alt.Fill("series:N", title=None).scale(domain=series)
        layers.insert(0, base.mark_area(aria=False).encode(y="low:Q", y2="high:Q", fill=fill))
    described = "; ".join(
        f"{name} from {percent(own[0]['barrier'])} at {own[0]['k']} to {percent(own[-1]['barrier'])} at {own[-1]['k']}"
        for name in series
        if (own := sorted((row for row in points if row["series"] == name), key=lambda row: float(row["k"])))
    )
    chart: alt.LayerChart = alt.LayerChart(layer=layers)
    counted = how_many(len(places), len(places), "moments", "")
    return dressed(chart, f"Error barrier over {counted} at which trainings part: {described}.")


def _curves(
    base: alt.Chart, key: str, names: list[str], value: str, place: str, counts: Sequence[str] = ()
) -> list[alt.Chart]:
    """Return a line with points for each name, in its own colour and shape; tooltips include the `counts`."""
    import altair as alt

    lines = base.mark_line().encode(stroke=alt.Stroke(f"{key}:N", title=None).scale(domain=names))
    marks = base.mark_point().encode(
        stroke=alt.Stroke(f"{key}:N", title=None).scale(domain=names),
        fill=alt.Fill(f"{key}:N", title=None).scale(domain=names),
        shape=alt.Shape(f"{key}:N", title=None).scale(**theme.scale(names, theme.SHAPES)),
        tooltip=[
            alt.Tooltip(f"{key}:N", title=key.capitalize()),
            alt.Tooltip(f"{place}:Q", title=place),
            alt.Tooltip(f"{value}:Q", title=value.capitalize(), format=".2%"),
            *(alt.Tooltip(f"{count}:Q", title=count.capitalize()) for count in counts),
        ],
    )
    return [lines, marks]


def _caption(points: list[dict[str, Any]]) -> list[str]:
    """Return the caption's lines: the meaning of the band and, if they differ, the numbers of pairs by k."""
    lines = [band((row["pairs"] for row in points), "pairs")]
    by_k = {
        k: sorted({row["pairs"] for row in points if row["k"] == k})
        for k in sorted({row["k"] for row in points})
    }
    if len({tuple(counts) for counts in by_k.values()}) > 1:
        counted = [
            f"{'–'.join(map(str, counts[:1] + counts[1:][-1:]))} at {k:,.9g}" for k, counts in by_k.items()
        ]
        lines.append(f"pairs: {', '.join(counted)}")
    return lines


def _gathered(rows: Iterable[ChartRow]) -> list[dict[str, Any]]:
    """Return a row per series and k with the mean, minimum and maximum of the barrier, and the number of pairs."""
    groups: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        groups.setdefault((row["series"], row["k"]), []).append(float(row["barrier"]))
    return [
        {
            "series": series,
            "k": k,
            "barrier": fmean(found),
            "low": min(found),
            "high": max(found),
            "pairs": len(found),
        }
        for (series, k), found in groups.items()
    ]
