"""Chart of the kept and removed units of every group, a panel per run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from secateur.core.extras import need
from secateur.core.tables import percent
from secateur.report.charts.drawing import BAR_STEP, ChartRow, dressed, how_many, inline, largest, some

if TYPE_CHECKING:
    import altair as alt


def group_units(rows: Iterable[ChartRow]) -> alt.FacetChart:
    """Return a chart of the units of every group in network order, kept and removed end to end, a panel per run.

    `rows` are {"run", "group", "units", "kept", "through"}: the numbers of units before and after, and the tensors of
    the group. Of more than 60 groups the 60 with most units are shown. Raises `InputError` for no rows.
    """
    need("altair", for_="A chart")
    import altair as alt

    rows = some(rows)
    runs = list(dict.fromkeys(row["run"] for row in rows))
    groups = list({row["group"]: row for row in rows}.values())
    shown = {row["group"] for row in largest(groups, "units")}
    bars = (
        alt.Chart()
        .mark_bar(height={"band": 0.62})
        .encode(
            x=alt.X("count:Q", title="Units").axis(tickCount=3, format="~s"),
            y=alt.Y("group:N", title=None, sort=None),
            color=alt.Color("what:N", title=None).scale(domain=["kept", "removed"]),
            order="what:N",
            tooltip=[
                alt.Tooltip("run:N", title="Run"),
                alt.Tooltip("group:N", title="Group"),
                alt.Tooltip("change:N", title="Units"),
                alt.Tooltip("left:Q", title="Left", format=".1%"),
                alt.Tooltip("through:N", title="Through"),
            ],
        )
        .properties(width=150, height=alt.Step(BAR_STEP))
    )
    panels: alt.FacetChart = bars.facet(
        facet=alt.Facet("run:N", title=None, sort=runs),
        data=inline(part for row in rows if row["group"] in shown for part in _parts(row)),
        columns=3,
    )
    ends = [choose(rows, key=lambda row: float(row["kept"]) / float(row["units"])) for choose in (min, max)]
    described = (
        f"Units kept and removed in {how_many(len(shown), len(groups), 'groups', 'with most units')} of"
        f" {how_many(len(runs), len(runs), 'runs', '')}: from "
        + " to ".join(
            f"{percent(row['kept'] / row['units'])} left ({row['group']} of {row['run']})" for row in ends
        )
        + "."
    )
    return dressed(panels, described)


def _parts(row: ChartRow) -> list[ChartRow]:
    """Return the two parts of one bar, kept and removed."""
    units, kept = row["units"], row["kept"]
    common = {
        "run": row["run"],
        "group": row["group"],
        "change": f"{units:,} → {kept:,}",
        "left": kept / units,
        "through": row.get("through", ""),
    }
    return [{**common, "what": "kept", "count": kept}, {**common, "what": "removed", "count": units - kept}]
