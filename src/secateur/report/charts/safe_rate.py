"""Charts of a safe pruning rate: the front of rate and cosine, and the tensors' kurtoses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.core.extras import need
from secateur.report import theme
from secateur.report.charts.drawing import BAR_STEP, ChartRow, dressed, how_many, inline, largest, some

if TYPE_CHECKING:
    import altair as alt

NORMAL = 3
LOG_FROM = 50


def front(safe_rate: ChartRow) -> alt.LayerChart:
    """Return a chart of pruning rate against cosine similarity, with optimum, utopia and safe rate marked.

    `safe_rate` is the content of safe_rate.json. Both axes run from 0 to 1 at the same scale, because the
    optimum is the point of the curve nearest to (1, 1) in Euclidean distance (Mason-Williams & Dahlqvist,
    2024).
    """
    need("altair", for_="A chart")
    import altair as alt

    curve = some(row for row in safe_rate["curve"] if row["cosine"] is not None)
    points = _points(safe_rate)
    names = [point["what"] for point in points]
    x = (
        alt.X("cosine:Q", title="Cosine similarity to the dense weights")
        .scale(domain=[0, 1])
        .axis(tickCount=5)
    )
    y = alt.Y("rate:Q", title="Pruning rate").scale(domain=[0, 1]).axis(format=".0%", tickCount=5)
    tooltips = [
        alt.Tooltip("rate:Q", title="Pruning rate", format=".1%"),
        alt.Tooltip("cosine:Q", title="Cosine", format=".4f"),
    ]
    line = alt.Chart(inline(curve)).mark_line().encode(x=x, y=y, order="rate:Q")
    hover = (
        alt.Chart(inline(curve)).mark_point(opacity=0, size=90, aria=False).encode(x=x, y=y, tooltip=tooltips)
    )
    distance = (
        alt.Chart(inline([points[0], points[-1]]))
        .mark_line(style="reference", strokeWidth=1.2)
        .encode(x=x, y=y, order="rate:Q")
    )
    named = alt.Chart(inline(points))
    marks = named.mark_point(filled=True, size=90).encode(
        x=x,
        y=y,
        color=alt.Color("what:N", legend=None).scale(domain=["front", *names]),
        shape=alt.Shape("what:N", legend=None).scale(**theme.scale(names, ("diamond", "circle", "cross"))),
        tooltip=[alt.Tooltip("what:N", title="Point"), *tooltips],
    )
    labels = named.mark_text(align="right", dx=-11).encode(x=x, y="label_at:Q", text="label:N")
    found = "; ".join(point["label"] for point in points[:-1])
    chart: alt.LayerChart = alt.layer(line, distance, hover, marks, labels).properties(width=380, height=380)
    return dressed(
        chart, f"Curve of the pruning rate against the cosine similarity to the dense weights: {found}."
    )


def _points(safe_rate: ChartRow) -> list[dict[str, Any]]:
    """Return optimum, safe rate (if any) and utopia, each with a label at a height without overlap."""
    optimum, safe = safe_rate["optimum"], safe_rate.get("safe")
    points = [_point("optimum", optimum, safe_rate["optimum_cosine"], optimum)]
    if safe is not None:
        points.append(_point("safe rate", safe, safe_rate["safe_cosine"], min(safe, optimum - 0.06)))
    return [*points, {"what": "utopia", "rate": 1, "cosine": 1, "label": "utopia (1, 1)", "label_at": 1.04}]


def _point(what: str, rate: float, cosine: float, label_at: float) -> dict[str, Any]:
    label = f"{what} {100 * rate:.1f} %, cosine {cosine:.3f}"
    return {"what": what, "rate": rate, "cosine": cosine, "label": label, "label_at": label_at}


def kurtosis(safe_rate: ChartRow) -> alt.LayerChart:
    """Return a chart of the Pearson kurtosis of every tensor in model order, with a normal distribution's 3.

    `safe_rate` is the content of safe_rate.json. Of more than 60 tensors the 60 of largest kurtosis are
    shown. The axis is logarithmic if the kurtoses span more than a factor of 50.
    """
    need("altair", for_="A chart")
    import altair as alt

    tensors = some(row for row in safe_rate["kurtoses"] if row["kurtosis"] is not None)
    shown = largest(tensors, "kurtosis")
    values = [float(row["kurtosis"]) for row in tensors]
    scale = alt.Scale(type="log") if max(values) > LOG_FROM * min(values) else alt.Scale(zero=False)
    x = alt.X("kurtosis:Q", title="Kurtosis (Pearson; normal = 3)", scale=scale).axis(tickCount=6)
    tooltips = [
        alt.Tooltip("name:N", title="Tensor"),
        alt.Tooltip("kurtosis:Q", title="Kurtosis", format=".3f"),
        alt.Tooltip("size:Q", title="Elements", format=","),
    ]
    base = alt.Chart(inline(shown)).encode(x=x, y=alt.Y("name:N", title=None, sort=None).axis(labelLimit=260))
    normal = alt.Chart(inline([{"kurtosis": NORMAL}])).mark_rule(style="reference", aria=False).encode(x=x)
    stems = base.mark_rule(style="stem", aria=False).encode(x2=alt.datum(NORMAL))
    heads = base.mark_point(style="head", filled=True).encode(tooltip=tooltips)
    peak = max(tensors, key=lambda row: float(row["kurtosis"]))
    described = (
        f"Kurtosis of {how_many(len(shown), len(tensors), 'tensors', 'of largest kurtosis')}:"
        f" from {min(values):.2f} to {max(values):.2f} ({peak['name']}); a normal distribution has {NORMAL}."
    )
    chart: alt.LayerChart = alt.layer(normal, stems, heads).properties(height=BAR_STEP * len(shown))
    return dressed(chart, described)
