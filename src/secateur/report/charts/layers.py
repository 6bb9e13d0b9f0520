"""Chart of the sparsity of every layer, a panel per run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from secateur.core.extras import need
from secateur.core.tables import percent
from secateur.report.charts.drawing import BAR_STEP, ChartRow, dressed, how_many, inline, largest, some

if TYPE_CHECKING:
    import altair as alt


def layer_sparsity(rows: Iterable[ChartRow]) -> alt.FacetChart:
    """Return a chart of the sparsity of every layer in model order, a panel of bars per run.

    `rows` are {"run", "layer", "sparsity", "parameters"}. Of more than 60 layers the 60 with most parameters
    are shown. Raises `InputError` for no rows.
    """
    need("altair", for_="A chart")
    import altair as alt

    rows = some(rows)
    runs = list(dict.fromkeys(row["run"] for row in rows))
    layers = list({row["layer"]: row for row in rows}.values())
    shown = {row["layer"] for row in largest(layers, "parameters")}
    tooltips = [
        alt.Tooltip("run:N", title="Run"),
        alt.Tooltip("layer:N", title="Layer"),
        alt.Tooltip("sparsity:Q", title="Sparsity", format=".2%"),
        alt.Tooltip("parameters:Q", title="Parameters", format=","),
    ]
    bars = (
        alt.Chart()
        .mark_bar(height={"band": 0.62})
        .encode(
            x=alt.X("sparsity:Q", title="Sparsity")
            .scale(domain=[0, 1])
            .axis(format=".0%", values=[0, 0.5, 1], labelFlush=True),
            y=alt.Y("layer:N", title=None, sort=None),
            tooltip=tooltips,
        )
        .properties(width=150, height=alt.Step(BAR_STEP))
    )
    panels: alt.FacetChart = bars.facet(
        facet=alt.Facet("run:N", title=None, sort=runs),
        data=inline(row for row in rows if row["layer"] in shown),
        columns=3,
    )
    ends = [choose(rows, key=lambda row: float(row["sparsity"])) for choose in (min, max)]
    described = (
        f"Sparsity of {how_many(len(shown), len(layers), 'layers', 'with most parameters')} in"
        f" {how_many(len(runs), len(runs), 'runs', '')}: from "
        + " to ".join(f"{percent(row['sparsity'])} ({row['layer']} of {row['run']})" for row in ends)
        + "."
    )
    return dressed(panels, described)
