"""The charts of lottery tickets and of barriers, read off their SVG: ticks, labels, captions, and eight looks."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from vega import drawn

from secateur.lottery import STARTS
from secateur.report import theme
from secateur.report.charts import barrier_over_k, tickets

DENSE = {"start": "dense", "left": 1.0, "value": 0.8875}


def searched(starts: Any, lefts: Any, runs: int = 1) -> list[dict[str, Any]]:
    return [DENSE] + [
        {"start": start, "left": left, "value": 0.88 - 0.01 * place * number + 0.002 * run}
        for place, start in enumerate(starts)
        for number, left in enumerate(lefts)
        for run in range(runs)
    ]


def places(svg: Any, what: str) -> list[tuple[float, float]]:
    """Where the texts that hold `what` are."""
    found = [
        each for each in svg.iter("{http://www.w3.org/2000/svg}text") if what in "".join(each.itertext())
    ]
    return [tuple(map(float, re.findall(r"-?[\d.]+", each.get("transform"))[:2])) for each in found]


def said(svg: Any) -> list[str]:
    """All lines of text, with plain spaces."""
    kinds = ("{http://www.w3.org/2000/svg}text", "{http://www.w3.org/2000/svg}tspan")
    return [each.text.replace("\xa0", " ") for each in svg.iter() if each.tag in kinds and each.text]


def test_every_start_has_a_colour_and_a_shape_of_its_own():
    svg = drawn(tickets(searched(STARTS, (0.7, 0.5, 0.35))))
    looks: dict[str, set[tuple[str, str]]] = {}
    for point in (each for each in svg.iter() if each.get("aria-roledescription") == "point"):
        start = re.search(r"Start: (\w+)", point.get("aria-label")).group(1)
        looks.setdefault(start, set()).add((point.get("fill"), point.get("d")))
    assert set(looks) == set(STARTS)
    assert all(len(look) == 1 for look in looks.values())
    colours, shapes = zip(*(look for (look,) in looks.values()), strict=True)
    assert len(set(colours)) == len(set(shapes)) == len(STARTS)


VISION = {  # Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, vision: Any) -> np.ndarray:
    """CIE L*a*b* of a colour as an eye sees it."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels > 0.04045, ((channels + 0.055) / 1.055) ** 2.4, channels / 12.92)
    xyz = TO_XYZ @ np.clip(np.asarray(vision) @ linear, 0, 1) / np.array([0.9505, 1, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("palette", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_any_two_of_eight_colours_can_be_told_apart(palette, vision):
    assert len(palette.series) >= 8
    seen = [lab(colour, VISION[vision]) for colour in palette.series]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) >= 10
    assert len(set(theme.SHAPES)) >= 8


@pytest.mark.parametrize(
    ("lefts", "ticks"),
    [
        ((0.7, 0.5, 0.35), ["70 %", "50 %", "35 %"]),
        ((0.5,), ["50 %"]),
        ([0.8**n for n in range(1, 18)], ["50 %", "20 %", "10 %", "5 %"]),
        (
            [0.96**n for n in range(1, 11)],
            [f"{96 * 0.96**n:.2f}".rstrip("0").rstrip(".") + " %" for n in range(10)],
        ),
    ],
)
def test_levels_are_the_ticks_where_they_are_few(lefts, ticks):
    (axis,) = (
        each
        for each in drawn(tickets(searched(["weights"], lefts))).iter()
        if (each.get("aria-label") or "").startswith("X-axis")
    )
    assert {text for text in said(axis) if text != "Weights left"} == set(ticks)


@pytest.mark.parametrize("measure", ["top1", "early_stop"])
def test_what_dense_models_reach_is_written_beside_the_plot(measure):
    ((across, _),) = places(drawn(tickets(searched(["weights"], (0.5, 0.3)), measure)), "dense ")
    assert across >= theme.WIDTH


def test_the_band_is_named_with_the_number_of_runs():
    one = tickets(searched(["weights"], (0.5, 0.3)))
    several = tickets(searched(["weights"], (0.5, 0.3), runs=3))
    mixed = tickets(searched(["weights"], (0.5, 0.3), runs=3) + searched(["lr"], (0.5, 0.3), runs=2)[1:])
    assert not any("band" in text for text in said(drawn(one)))
    assert "mean of 3 runs, in a band from least to most" in said(drawn(several))
    assert "mean of 2 to 3 runs, in a band from least to most" in said(drawn(mixed))
    assert "mean of 3 runs, in a band from least to most." in several.to_dict()["description"]


def test_the_band_goes_from_least_to_most():
    rows = [
        {"start": "weights", "left": left, "value": value} for left in (0.5, 0.3) for value in (0.1, 0.2, 0.6)
    ]
    spec = tickets(rows).to_dict()
    (band,) = (layer for layer in spec["layer"] if layer["mark"]["type"] == "area")
    assert (band["encoding"]["y"]["field"], band["encoding"]["y2"]["field"]) == ("low", "high")
    values = [spec["datasets"][band["data"]["name"]]]
    assert [(row["low"], row["high"], row["value"]) for row in values[0]] == [
        (0.1, 0.6, pytest.approx(0.3))
    ] * 2


def pairs(numbers: dict[int, int]) -> list[dict[str, Any]]:
    return [
        {"series": series, "k": k, "barrier": 0.1 + 0.01 * number}
        for series in ("train", "test")
        for k, several in numbers.items()
        for number in range(several)
    ]


def test_the_scale_of_k_is_named_and_pairs_are_counted_where_they_differ():
    found = said(drawn(barrier_over_k(pairs({0: 3, 5: 3, 6: 3, 24: 1}))))
    for text in (
        "the scale is logarithmic, but reaches 0",
        "pairs: 3 at 0, 3 at 5, 3 at 6, 1 at 24",
        "5",
        "6",
        "24",
    ):
        assert text in found
    alike = said(drawn(barrier_over_k(pairs({0: 2, 5: 2}))))
    assert "mean of 2 pairs, in a band from least to most" in alike
    assert not any(text.startswith("pairs:") for text in alike)
    single = said(drawn(barrier_over_k(pairs({0: 1, 5: 1}))))
    assert not any("mean of" in text for text in single)
