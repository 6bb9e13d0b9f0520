"""Chart of top-1 against the fraction removed, a line per method.

In a report "removed" is the fraction that cuts have taken of the prunable weights, or of the parameters; "sparsity" is
the fraction of zeros among what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from secateur.core.extras import need
from secateur.core.tables import percent
from secateur.report import theme
from secateur.report.charts.drawing import ChartRow, dressed, how_many, inline, reference, some

if TYPE_CHECKING:
    import altair as alt

ACCURACY_STAGES = ("retrained", "as cut")


def accuracy_against_sparsity(rows: Iterable[ChartRow]) -> alt.LayerChart:
    """Return a chart of top-1 on the test split against the fraction removed, a line per method and stage.

    As cut is dashed, retrained solid. `rows` are {"method", "sparsity", "top1", "stage": "as cut" | "retrained" |
    "dense"}, fractions. Several runs (seeds) of one point become their mean in a band from minimum to maximum. The
    mean of the dense rows is the horizontal reference. Raises `InputError` if nothing was pruned.
    """
    need("altair", for_="A chart")
    import altair as alt

    known = [row for row in rows if row.get("top1") is not None]
    points = some(averaged(row for row in known if row["stage"] != "dense"))
    dense = [float(row["top1"]) for row in known if row["stage"] == "dense"]
    methods = list(dict.fromkeys(row["method"] for row in points))

    amounts = sorted({row["sparsity"] for row in points})
    ticks = alt.Axis(
        format=".2~%",
        grid=False,
        labelOverlap="greedy",
        values=amounts if len(amounts) <= 8 else alt.Undefined,
    )
    x = alt.X("sparsity:Q", title="Removed", axis=ticks).scale(zero=False, nice=False, padding=24)
    y = (
        alt.Y("top1:Q", title="Top-1 on the test split")
        .axis(format=".0%", tickCount=6)
        .scale(zero=False, nice=False, padding=20)
    )
    stroke = alt.Stroke("method:N", title="Method").scale(domain=methods)
    fill = alt.Fill("method:N", title="Method").scale(domain=methods)
    dash = alt.StrokeDash("stage:O", title="Stage").scale(
        **theme.scale(ACCURACY_STAGES, (theme.SOLID, theme.DASHED))
    )
    tooltips = [
        alt.Tooltip("method:N", title="Method"),
        alt.Tooltip("stage:N", title="Stage"),
        alt.Tooltip("sparsity:Q", title="Removed", format=".1%"),
        alt.Tooltip("top1:Q", title="Top-1", format=".2%"),
        alt.Tooltip("runs:Q", title="Runs"),
    ]
    base = alt.Chart(inline(points)).encode(x=x)
    lines = base.mark_line().encode(y=y, stroke=stroke, strokeDash=dash)
    marks = base.mark_point().encode(
        y=y,
        stroke=stroke,
        fill=fill,
        shape=alt.Shape("method:N", title="Method").scale(**theme.scale(methods, theme.SHAPES)),
        fillOpacity=alt.FillOpacity("stage:O", title="Stage").scale(**theme.scale(ACCURACY_STAGES, (1, 0))),
        tooltip=tooltips,
    )
    layers = [*reference(dense, percent), lines, marks]
    if any(row["runs"] > 1 for row in points):
        layers.insert(
            0, base.mark_area(aria=False).encode(y="low:Q", y2="high:Q", fill=fill, detail="stage:N")
        )
    return dressed(alt.LayerChart(layer=layers), _in_words(points, dense))


def averaged(rows: Iterable[ChartRow]) -> list[dict[str, Any]]:
    """Return a row per method, stage and sparsity (to 0.1 %) with the mean, minimum and maximum of top-1.

    Its keys are "method", "stage", "sparsity", "top1", "low", "high" and "runs", the number of rows.
    """
    groups: dict[tuple[str, str, float], list[ChartRow]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["stage"], round(row["sparsity"], 3)), []).append(row)
    return [
        {
            "method": method,
            "stage": stage,
            "sparsity": fmean(row["sparsity"] for row in group),
            "top1": fmean(row["top1"] for row in group),
            "low": min(row["top1"] for row in group),
            "high": max(row["top1"] for row in group),
            "runs": len(group),
        }
        for (method, stage, _), group in groups.items()
    ]


def _in_words(points: Sequence[ChartRow], dense: Sequence[float]) -> str:
    best = max(points, key=lambda row: (float(row["top1"]), float(row["sparsity"])))
    methods = len({row["method"] for row in points})
    against = f" The dense model reaches {percent(fmean(dense))}." if dense else ""
    return (
        f"Top-1 against the fraction removed for {how_many(methods, methods, 'methods', '')}. Best: {best['method']},"
        f" {best['stage']}, {percent(best['top1'])} at {percent(best['sparsity'])} removed.{against}"
    )
