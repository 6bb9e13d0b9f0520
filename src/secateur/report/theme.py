"""The style of charts: palette, shapes, dashes, fonts, and the Vega-Lite configuration made of them.

A chart names no colour. One of two configurations sets them: `PAPER_THEME` for files on white, `PAGE` for the report,
in which every colour is a CSS variable, so that one chart follows light mode, dark mode and print without being drawn
again. The series colours follow Okabe & Ito (2008), distinct with any colour vision, shifted in lightness to a
contrast of at least 3:1 to their background. Shapes and dashes repeat the colours' information.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
FONT_SIZE = 12
SMALL = 11
WIDTH, HEIGHT = 560, 320
NUMBERS = {"decimal": ".", "thousands": ",", "grouping": [3], "currency": ["", ""], "percent": "\u00a0%"}

STAR = "M0.00,-1.15L0.29,-0.40L1.09,-0.36L0.48,0.15L0.68,0.93L0.00,0.50L-0.68,0.93L-0.48,0.15L-1.09,-0.36L-0.29,-0.40Z"
SALTIRE = "M-1,-0.6L-0.6,-1L0,-0.4L0.6,-1L1,-0.6L0.4,0L1,0.6L0.6,1L0,0.4L-0.6,1L-1,0.6L-0.4,0Z"
"""Shapes without a name in Vega, as SVG paths from −1 to 1."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", STAR, SALTIRE)
SOLID, DASHED = (1, 0), (5, 4)


@dataclass(frozen=True)
class Palette:
    """The colours on one background: text, axes, grid, and the series of data."""

    paper: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]

    def variables(self) -> dict[str, str]:
        """Return the palette as CSS custom properties, name → colour."""
        named = {f"--chart-{name}": value for name, value in asdict(self).items() if name != "series"}
        return named | {f"--chart-{index}": colour for index, colour in enumerate(self.series, start=1)}

    def referred(self) -> Palette:
        """Return the palette with each colour replaced by a reference to its CSS custom property."""
        paper, ink, muted, grid, *series = (f"var({name})" for name in self.variables())
        return Palette(paper, ink, muted, grid, tuple(series))


LIGHT = Palette(
    paper="#ffffff",
    ink="#1f2328",
    muted="#59626c",
    grid="#e4e7ea",
    series=("#0072b2", "#d55e00", "#00875f", "#b0508c", "#7d5200", "#5f52c9", "#16181d", "#8d8f98"),
)
DARK = Palette(
    paper="#14171b",
    ink="#e8eaed",
    muted="#a3abb4",
    grid="#2b3138",
    series=("#56b4e9", "#f28344", "#2cc295", "#de8fbd", "#f2e06a", "#8c7bff", "#f3f5f7", "#7e858c"),
)


def config(palette: Palette) -> dict[str, Any]:
    """Return the Vega-Lite configuration of `palette`."""
    text = {
        "labelColor": palette.muted,
        "labelFontSize": SMALL,
        "titleColor": palette.ink,
        "titleFontSize": FONT_SIZE,
    }
    return {
        "background": palette.paper,
        "font": FONT,
        "locale": {"number": NUMBERS},
        "padding": 4,
        "view": {"stroke": None, "continuousWidth": WIDTH, "continuousHeight": HEIGHT},
        "range": {"category": list(palette.series)},
        "axis": text
        | {
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "labelLimit": 180,
            "domain": False,
            "ticks": False,
            "labelPadding": 6,
            "labelFlush": False,
            "gridColor": palette.grid,
        },
        "legend": text
        | {
            "orient": "top",
            "direction": "horizontal",
            "columns": 4,
            "titleFontWeight": "normal",
            "titleOrient": "left",
            "titlePadding": 8,
            "titleLimit": 120,
            "labelColor": palette.ink,
            "labelLimit": 200,
            "symbolStrokeWidth": 2,
            "columnPadding": 14,
            "offset": 8,
        },
        "header": text
        | {
            "labelColor": palette.ink,
            "labelFontSize": FONT_SIZE,
            "labelFontWeight": 600,
            "labelAnchor": "start",
            "labelLimit": 150,
        },
        "line": {"strokeWidth": 2, "color": palette.series[0]},
        "bar": {"color": palette.series[0]},
        "point": {"size": 55, "strokeWidth": 1.6, "opacity": 1},
        "area": {"opacity": 0.15},
        "text": {"color": palette.ink, "fontSize": FONT_SIZE},
        "rule": {"color": palette.muted},
        "style": {
            "reference": {"color": palette.muted, "strokeDash": list(DASHED)},
            "head": {"color": palette.series[0]},
            "stem": {"color": palette.series[0]},
            "note": {"color": palette.muted, "fontSize": SMALL},
        },
    }


def scale(domain: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Return an ordinal scale that gives each name of `domain` one of `values`.

    Each repetition of the `values` starts one further on, so that pairs of a shape and a colour stay distinct.
    """
    count = len(values)
    return {
        "domain": list(domain),
        "range": [values[(at + at // count) % count] for at in range(len(domain))],
    }


PAPER_THEME = config(LIGHT)
PAGE = config(LIGHT.referred())
