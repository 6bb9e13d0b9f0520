"""Chart of a study: a number against a variable, a line for each way, in a band of its spread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from secateur.core.extras import need
from secateur.report import theme
from secateur.report.charts.drawing import ChartRow, dressed, inline, some

if TYPE_CHECKING:
    import altair as alt


def value_by_way(rows: Iterable[ChartRow], *, x: str, y: str, fraction: bool = False) -> alt.LayerChart:
    """Return a chart of `rows`, {"way", "x", "mean", "low", "high", "n"}: means as lines, low to high as a band.

    `x` and `y` are the titles of the axes; `fraction` (default off) shows y in percent. A way's points are joined in
    order of x. Raises `InputError` for no rows.
    """
    need("altair", for_="A chart")
    import altair as alt

    points = some(rows)
    ways = list(dict.fromkeys(row["way"] for row in points))
    numeric = all(isinstance(row["x"], int | float) for row in points)
    form = "%" if fraction else ".6~g"
    places = sorted({row["x"] for row in points}) if len({row["x"] for row in points}) <= 8 else alt.Undefined
    across: Any = alt.X("x:Q", title=x).scale(zero=False, nice=False, padding=16)
    across = across.axis(grid=False, values=places, format=".6~g")
    if not numeric:
        across = alt.X("x:N", title=x, sort=None).axis(labelAngle=0, grid=False)
    base = alt.Chart(inline(points)).encode(x=across)
    up = alt.Y("mean:Q", title=y).axis(format=form, tickCount=6).scale(zero=False, nice=False, padding=16)
    stroke = alt.Stroke("way:N", title=None).scale(domain=ways)
    fill = alt.Fill("way:N", title=None).scale(domain=ways)
    tooltips = [
        alt.Tooltip("way:N", title="Way"),
        alt.Tooltip("x:Q" if numeric else "x:N", title=x),
        alt.Tooltip("mean:Q", title=y, format=".2%" if fraction else ".4~g"),
        alt.Tooltip("n:Q", title="Repeats"),
    ]
    layers = [
        base.mark_line().encode(y=up, stroke=stroke),
        base.mark_point().encode(
            y=up,
            stroke=stroke,
            fill=fill,
            shape=alt.Shape("way:N", title=None).scale(**theme.scale(ways, theme.SHAPES)),
            tooltip=tooltips,
        ),
    ]
    if any(row["low"] < row["high"] for row in points):
        spread = base.mark_area(aria=False) if numeric else base.mark_rule(aria=False)
        layers.insert(
            0,
            spread.encode(
                y=alt.Y("low:Q", title=y).scale(zero=False, nice=False, padding=16),
                y2="high:Q",
                **({"fill": fill} if numeric else {"stroke": stroke}),
            ),
        )
    return dressed(alt.LayerChart(layer=layers), f"{y} against {x} for {', '.join(ways)}.")
