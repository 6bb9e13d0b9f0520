"""Rendering of a report as one HTML file with text, tables, charts and the code that draws them.

The page needs no network (its content security policy forbids it), shows every chart without JavaScript (a static
drawing that the interactive one replaces), follows light and dark mode and prints on white. All text is escaped.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from secateur.core.extras import need
from secateur.core.visible import visible
from secateur.report import comparison, sections, theme, words
from secateur.report.charts.drawing import specification_of
from secateur.report.content import ReportContent

if TYPE_CHECKING:
    import altair as alt


def render(content: ReportContent) -> str:
    """Return the report as the text of one self-contained HTML document."""
    figures = {name: list(make(content)) for name, make in sections.FIGURES.items()}
    safe_rates = sections.safe_rates(content)
    groups = [*figures.values(), *(found.figures for found in safe_rates)]
    groups += [section.figures for section in content.sections]
    drawn = [figure for group in groups for figure in group]
    specs = {figure.key: specification(figure.chart) for figure in drawn}
    page: str = _template().render(
        content=content,
        summary=[*content.summary, *words.summary(content.runs)],
        masks=words.masks_bring_no_speed(content.runs),
        results=comparison.results(content.runs),
        costs=comparison.costs(content.runs),
        smaller=comparison.smaller(content.runs),
        environment=sections.environment(content) if content.environment else None,
        figures=figures,
        safe_rates=safe_rates,
        specs=specs,
        drawings={key: drawing(spec) for key, spec in specs.items()},
        vega=vega() if drawn else "",
        light=theme.LIGHT.variables(),
        dark=theme.DARK.variables(),
    )
    return page


def specification(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """Return the chart as Vega-Lite JSON whose colours are the page's CSS variables."""
    spec = specification_of(chart)
    del spec["$schema"]
    return spec | {"config": theme.PAGE}


def drawing(spec: dict[str, Any]) -> Markup:
    """Return the chart as a static inline SVG, hidden from screen readers: its container has the description."""
    need("vl_convert", for_="A drawing of a chart")
    import vl_convert

    svg = re.sub(r' (aria-[a-z]+|role)="[^"]*"', "", vl_convert.vegalite_to_svg(spec))
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" ', 1))


def unbroken(text: str) -> str:
    """Return the text with unbreakable spaces before "%" and an unbreakable hyphen in "top-1"."""
    return text.replace(" %", "\u00a0%").replace("top-1", "top\u20111")


@cache
def vega() -> Markup:
    """Return Vega, Vega-Lite and Vega-Embed as one JavaScript module that defines `window.vegaEmbed`."""
    need("vl_convert", for_="A drawing of a chart")
    import vl_convert

    bundle: str = vl_convert.javascript_bundle(snippet="window.vegaEmbed = vegaEmbed;")
    return Markup(bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


def _shown(value: Any) -> Any:
    """Make a text of the page visible; markup is passed on."""
    return visible(value) if type(value) is str else value


@cache
def _template() -> Any:
    jinja = need("jinja2", for_="A report")
    environment = jinja.Environment(
        loader=jinja.PackageLoader("secateur.report", ""),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    return environment.get_template("page.html")
