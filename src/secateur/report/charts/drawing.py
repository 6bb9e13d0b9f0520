"""Parts common to all charts: inline data, the theme, a limit on crowded axes, and writing files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from secateur.core.errors import InputError
from secateur.core.extras import need
from secateur.core.files import write_bytes
from secateur.core.visible import all_visible
from secateur.report import theme

if TYPE_CHECKING:
    import altair as alt

ChartRow = Mapping[str, Any]
Chart = TypeVar("Chart", bound="alt.TopLevelMixin")
MOST_BARS = 60
BAR_STEP = 18
BELOW_AXIS, LINE = 48, 14


def inline(rows: Iterable[ChartRow]) -> alt.InlineData:
    """Return the rows as data inside the chart."""
    import altair as alt

    return alt.InlineData(values=[dict(row) for row in rows])


def dressed(chart: Chart, description: str) -> Chart:
    """Return the chart in the theme for files, with its description in words."""
    finished: Chart = chart.properties(description=description, config=theme.PAPER_THEME)
    return finished


def some(rows: Iterable[ChartRow]) -> list[ChartRow]:
    """Return the rows as a list. Raises `InputError` if there are none."""
    found = list(rows)
    if not found:
        raise InputError("There is nothing to draw: the chart was given no rows of data.")
    return found


def largest(rows: Sequence[ChartRow], key: str) -> list[ChartRow]:
    """Return at most `MOST_BARS` of the rows, those of largest `key`, in their given order."""
    kept = sorted(range(len(rows)), key=lambda index: -float(rows[index][key]))[:MOST_BARS]
    return [rows[index] for index in sorted(kept)]


def how_many(shown: int, total: int, things: str, chosen: str) -> str:
    """Return a count in words: "5 layers", or "the 60 layers with most parameters, of 161"."""
    if shown == total:
        return f"{total} {things if total != 1 else things.removesuffix('s')}"
    return f"the {shown} {things} {chosen}, of {total}"


def reference(values: Sequence[float], write: Callable[[float], str]) -> list[alt.Chart]:
    """Return a labelled horizontal rule at the mean of the dense models' `values`; [] without any."""
    return level(fmean(values), f"dense {write(fmean(values))}") if values else []


def level(at: float, label: str) -> list[alt.Chart]:
    """Return a horizontal rule, labelled beside the plot."""
    import altair as alt

    base = alt.Chart(inline([{"at": at, "label": label}])).encode(y="at:Q")
    text = base.mark_text(style="note", align="left", baseline="middle", dx=8)
    return [base.mark_rule(style="reference"), text.encode(x=alt.value("width"), text="label:N")]


def band(counts: Iterable[int], things: str) -> str:
    """Return the caption of a band: "mean of 3 runs, in a band from least to most"; "" if all counts are 1."""
    least, most = min(found := list(counts)), max(found)
    number = str(most) if least == most else f"{least} to {most}"
    return f"mean of {number} {things}, in a band from least to most" if most > 1 else ""


def captioned(lines: Iterable[str]) -> list[alt.Chart]:
    """Return the non-empty lines as a text below the title of the horizontal axis; [] without any."""
    import altair as alt

    shown = [line for line in lines if line]
    text = alt.Chart(inline([{"caption": shown}])).mark_text(
        style="note", align="center", baseline="top", dy=BELOW_AXIS, lineHeight=LINE, aria=False
    )
    return (
        [text.encode(x=alt.value(theme.WIDTH / 2), y=alt.value("height"), text="caption:N")] if shown else []
    )


def specification_of(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """Return the chart as Vega-Lite JSON, its texts made visible: the renderer aborts at control characters."""
    spec: dict[str, Any] = all_visible(chart.to_dict())
    return spec


def save(
    chart: alt.TopLevelMixin, stem: str | os.PathLike[str], formats: Sequence[str] = ("svg", "png")
) -> list[Path]:
    """Write the chart to `stem` with each of `formats` (svg, png) as suffix, and return the paths.

    A PNG has two pixels per unit. Raises `InputError` for any other format, and `StoreError` if a file
    can't be written.
    """
    need("vl_convert", for_="A drawing of a chart")
    import vl_convert

    draw = {
        "svg": lambda spec: vl_convert.vegalite_to_svg(spec).encode(),
        "png": lambda spec: vl_convert.vegalite_to_png(spec, scale=2),
    }
    for name in formats:
        if name not in draw:
            raise InputError(f"A chart cannot be saved as '{name}': choose from {', '.join(draw)}.")
    spec = specification_of(chart)
    paths = [Path(f"{os.fspath(stem)}.{name}") for name in formats]
    for name, path in zip(formats, paths, strict=True):
        write_bytes(path, draw[name](spec))
    return paths
