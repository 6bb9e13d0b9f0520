from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import report_fixtures as study
import sample_charts
from sample_charts import ACCURACY, CHARTS, SAFE_RATE
from vega import drawn, marks, texts

from secateur.core.errors import InputError, StoreError
from secateur.report import charts, theme

EXPECTED = {  # how many of each mark: stands for as many things in the data
    "front": {"line mark": 2, "point": 3, "text mark": 3},
    "kurtosis": {"point": 10},
    "accuracy": {"line mark": 6, "point": 12, "rule mark": 1},
    "fusion": {"line mark": 6, "point": 12},
    "groups": {"bar": 12},
    "layers": {"bar": 15},
    "training": {"line mark": 4, "point": 40},
}


@pytest.mark.parametrize("name", CHARTS)
def test_every_row_becomes_a_mark(name):
    counted = marks(drawn(CHARTS[name]()))
    assert {kind: counted.get(kind) for kind in EXPECTED[name]} == EXPECTED[name]


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_says_itself_in_words_and_has_no_title_of_its_own(name):
    spec = CHARTS[name]().to_dict()
    assert re.search(r"\d", spec["description"])
    assert spec["description"].endswith(".")
    assert "title" not in spec


@pytest.mark.parametrize("name", CHARTS)
def test_text_is_never_small(name):
    sizes = [
        float(e.get("font-size", "0px")[:-2]) for e in drawn(CHARTS[name]()).iter() if e.get("font-size")
    ]
    assert min(sizes) >= 11


def test_files_are_written_and_the_same_each_time(tmp_path):
    first = charts.save(CHARTS["accuracy"](), tmp_path / "one" / "accuracy")
    second = charts.save(CHARTS["accuracy"](), tmp_path / "two" / "accuracy")
    assert [path.name for path in first] == ["accuracy.svg", "accuracy.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    svg, png = (path.read_bytes() for path in first)
    width = float(ElementTree.fromstring(svg).get("width"))
    assert int.from_bytes(png[16:20], "big") == pytest.approx(2 * width, abs=2)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["accuracy.png", "accuracy.svg"]


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="'gif': choose from svg, png"):
        charts.save(CHARTS["front"](), tmp_path / "front", formats=("svg", "gif"))
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="a file is in the way"):
        charts.save(CHARTS["kurtosis"](), tmp_path / "file" / "kurtosis")


def test_no_chart_needs_pandas():
    code = "import sys; import sample_charts as s; [make().to_dict() for make in s.CHARTS.values()]"
    code += "; sys.exit('pandas' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(sample_charts.__file__).parent,
        check=True,
    )


@pytest.mark.parametrize(
    ("draw", "rows"),
    [
        (charts.accuracy_against_sparsity, []),
        (charts.accuracy_against_sparsity, ACCURACY[:1]),
        (charts.layer_sparsity, []),
        (charts.training_curves, []),
        (charts.kurtosis, {"kurtoses": []}),
    ],
)
def test_nothing_to_draw_is_said(draw, rows):
    with pytest.raises(InputError, match="nothing to draw"):
        draw(rows)


def test_the_front_names_its_points():
    found = texts(drawn(charts.front(SAFE_RATE)))
    assert f"optimum {100 * SAFE_RATE['optimum']:.1f} %, cosine {SAFE_RATE['optimum_cosine']:.3f}" in found
    assert "utopia (1, 1)" in found
    assert any(text.startswith("safe rate") for text in found)


def test_a_front_without_safe_rate_leaves_it_out():
    without = {**SAFE_RATE, "safe": None, "safe_cosine": None}
    assert marks(drawn(charts.front(without)))["point"] == 2


def test_the_labels_of_a_clamped_safe_rate_do_not_meet():
    clamped = {**SAFE_RATE, "safe": SAFE_RATE["optimum"], "safe_cosine": SAFE_RATE["optimum_cosine"]}
    svg = drawn(charts.front(clamped))
    labels = [e for e in svg.iter() if e.get("aria-roledescription") == "text mark"]
    heights = sorted(
        float(re.search(r"translate\([^,]+,([\d.-]+)", e.get("transform")).group(1)) for e in labels
    )
    assert min(b - a for a, b in itertools.pairwise(heights)) >= theme.FONT_SIZE


def test_many_tensors_are_limited_to_the_largest_in_model_order():
    rate = study.safe_rate(tensors=161)
    chart = charts.kurtosis(rate)
    axis = [text for text in texts(drawn(chart)) if text.endswith((".weight", ".bias"))]
    largest = sorted(rate["kurtoses"], key=lambda row: -row["kurtosis"])[:60]
    expected = [row["name"] for row in rate["kurtoses"] if row in largest]
    assert axis == expected
    assert "of 161" in chart.to_dict()["description"]


def test_a_wide_range_of_kurtoses_gets_a_logarithmic_axis():
    wide = {
        "kurtoses": [{"name": "a", "kurtosis": 1.8, "size": 2}, {"name": "b", "kurtosis": 900, "size": 2}]
    }
    assert '"type": "log"' in json.dumps(charts.kurtosis(wide).to_dict())
    assert '"type": "log"' not in json.dumps(charts.kurtosis(SAFE_RATE).to_dict())


def test_seeds_become_their_mean_in_a_band():
    rows = [
        {"method": "magnitude, global", "sparsity": sparsity, "top1": top1, "stage": "retrained"}
        for sparsity in (0.5, 0.9)
        for top1 in (0.90, 0.93, 0.96)
    ]
    first, second = charts.averaged(rows)
    assert (first["top1"], first["low"], first["high"], first["runs"]) == (pytest.approx(0.93), 0.90, 0.96, 3)
    assert second["sparsity"] == 0.9
    svg = drawn(charts.accuracy_against_sparsity(rows))
    assert any("mark-area" in (element.get("class") or "") for element in svg.iter())
    single = drawn(charts.accuracy_against_sparsity(rows[::3]))
    assert not any("mark-area" in (element.get("class") or "") for element in single.iter())


def test_methods_differ_in_colour_and_shape_and_stages_in_dash_and_fill():
    svg = drawn(CHARTS["accuracy"]())
    points = [e for e in svg.iter() if e.get("aria-roledescription") == "point"]
    by_method: dict[str, set[tuple[str, str]]] = {}
    for point in points:
        method = re.search(r"Method: ([a-z, ]+)", point.get("aria-label")).group(1)
        by_method.setdefault(method, set()).add((point.get("stroke"), point.get("d")))
    assert len(by_method) == 3
    looks = [next(iter(look)) for look in by_method.values()]
    assert all(len(look) == 1 for look in by_method.values())
    assert len({colour for colour, _ in looks}) == len({shape for _, shape in looks}) == 3
    filled = {"retrained" in e.get("aria-label"): e.get("fill-opacity") for e in points}
    assert filled == {True: "1", False: "0"}
    lines = [e for e in svg.iter() if e.get("aria-roledescription") == "line mark"]
    dashes = {"retrained" in e.get("aria-label"): e.get("stroke-dasharray") for e in lines}
    assert dashes == {True: "1,0", False: "5,4"}


def test_later_trainings_of_a_run_follow_on():
    rows = study.epochs("train", 0, 4, 0.5, 0.9) + study.epochs("retrain", 2, 3, 0.8, 0.9)
    chart = charts.training_curves({**row, "run": "a"} for row in rows)
    labels = [e.get("aria-label") for e in drawn(chart).iter() if e.get("aria-roledescription") == "point"]
    assert [int(re.search(r"Epoch: (\d+)", label).group(1)) for label in labels] == 2 * [1, 2, 3, 4, 5, 6, 7]


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_colours_are_readable_on_their_background(palette):
    assert contrast(palette.ink, palette.paper) >= 7
    assert contrast(palette.muted, palette.paper) >= 4.5
    assert min(contrast(colour, palette.paper) for colour in palette.series) >= 3
    assert len(set(palette.series)) == len(palette.series)


def test_the_page_names_no_colour_but_its_variables():
    assert not re.search(r"#[0-9a-f]{3,6}", json.dumps(theme.PAGE))
    names = set(re.findall(r"var\((--[a-z0-9-]+)\)", json.dumps(theme.PAGE)))
    assert names == set(theme.LIGHT.variables()) == set(theme.DARK.variables())


def test_places_on_the_axis_of_a_study_are_written_in_full(tmp_path):
    rows = [
        {"way": "a", "x": x, "mean": mean, "low": mean, "high": mean, "n": 1}
        for x, mean in ((0.5, 0.951), (0.9, 0.953), (0.95, 0.956))
    ]
    from secateur.report.charts.study import value_by_way

    charts.save(value_by_way(rows, x="amount", y="top1", fraction=True), tmp_path / "study", ["svg"])
    text = re.findall(r">([^<>]+)</text>", (tmp_path / "study.svg").read_text())
    assert {"0.5", "0.9", "0.95"} <= set(text)
    percents = [each for each in text if each.endswith("%")]
    assert len(set(percents)) == len(percents) >= 3
