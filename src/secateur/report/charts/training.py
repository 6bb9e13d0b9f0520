"""Chart of training curves: top-1 and loss over the epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from secateur.core.extras import need
from secateur.core.tables import percent
from secateur.report import theme
from secateur.report.charts.drawing import ChartRow, dressed, how_many, inline, some

if TYPE_CHECKING:
    import altair as alt


def training_curves(rows: Iterable[ChartRow]) -> alt.ConcatChart:
    """Return charts of top-1 and loss on the test split over the epochs, side by side, a line per run.

    `rows` are those of metrics.jsonl, each with its "run". The epochs of a run's successive trainings are numbered
    consecutively. Raises `InputError` for no rows.
    """
    need("altair", for_="A chart")
    import altair as alt

    numbered = _consecutive(some(rows))
    runs = list(dict.fromkeys(row["run"] for row in numbered))
    top1 = _curve(numbered, runs, "top1", "Top-1 on the test split", axis=".0%", tooltip_format=".2%")
    loss = _curve(numbered, runs, "loss", "Loss on the test split", axis="", tooltip_format=".4f")
    last = {row["run"]: row["top1"] for row in numbered if row["top1"] is not None}
    ends = "; ".join(f"{run} ends at {percent(value)}" for run, value in last.items())
    described = f"Top-1 and loss over the epochs of {how_many(len(runs), len(runs), 'runs', '')}: {ends}."
    return dressed(alt.concat(top1, loss, columns=2), described)


def _curve(
    rows: list[dict[str, Any]], runs: list[str], key: str, title: str, axis: str, tooltip_format: str
) -> alt.Chart:
    import altair as alt

    last = math.ceil(max(row["at"] for row in rows))
    step = max(1, math.ceil(last / 10))
    chart: alt.Chart = (
        alt.Chart(inline(row for row in rows if row[key] is not None))
        .mark_line(point={"filled": True, "size": 40})
        .encode(
            x=alt.X("at:Q", title="Epoch")
            .axis(format="d", values=[*range(step, last + 1, step)], grid=False)
            .scale(zero=False, nice=False, padding=8),
            y=alt.Y(f"{key}:Q", title=title).axis(format=axis, tickCount=6).scale(zero=False),
            color=alt.Color("run:N", title=None).scale(domain=runs),
            shape=alt.Shape("run:N", title=None).scale(**theme.scale(runs, theme.SHAPES)),
            tooltip=[
                alt.Tooltip("run:N", title="Run"),
                alt.Tooltip("do:N", title="Step"),
                alt.Tooltip("at:Q", title="Epoch"),
                alt.Tooltip(f"{key}:Q", title=title, format=tooltip_format),
            ],
        )
        .properties(width=270, height=240)
    )
    return chart


def _consecutive(rows: Iterable[ChartRow]) -> list[dict[str, Any]]:
    """Number each run's epochs consecutively ("at"): a later training continues the count of the earlier one."""
    numbered: list[dict[str, Any]] = []
    steps: dict[str, Any] = {}
    starts: dict[str, float] = {}
    ends: dict[str, float] = {}
    for row in rows:
        run, step = row["run"], row.get("step")
        if steps.setdefault(run, step) != step:
            steps[run], starts[run] = step, ends[run]
        ends[run] = starts.get(run, 0) + row["epoch"]
        numbered.append(
            {
                "run": run,
                "do": row.get("do"),
                "at": ends[run],
                "top1": row.get("top1"),
                "loss": row.get("loss"),
            }
        )
    return numbered
