"""A chart as the drawing a reader sees: its marks and its texts."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import vl_convert


def drawn(chart: Any) -> ElementTree.Element:
    return ElementTree.fromstring(vl_convert.vegalite_to_svg(chart.to_dict()))


def marks(svg: ElementTree.Element) -> dict[str, int]:
    """Count the marks of the data, by kind; containers, axes and legends aside."""
    kinds = [element.get("aria-roledescription") or "" for element in svg.iter()]
    counted = {kind: kinds.count(kind) for kind in set(kinds)}
    return {
        kind: n for kind, n in counted.items() if kind and not re.search("container|axis|legend|title", kind)
    }


def texts(svg: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text")]
