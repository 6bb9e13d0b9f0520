from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import report_fixtures as study

from secateur.report import comparison, sections, words
from secateur.report.content import ReportContent, RunView
from secateur.report.html import render

STUDY = study.content()
EVIL = '</script><script>alert("1")</script><!-- <b>&'
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """The parsed page: tags with attributes, headings, and the text inside each kind of tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def inside(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]


@pytest.fixture(scope="module")
def html() -> str:
    return render(STUDY)


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_the_page_is_whole_and_small(html, page):
    assert html.startswith("<!doctype html>")
    assert page.open == []
    assert len(html.encode()) < 2_000_000


def test_every_section_has_its_heading_and_levels_are_not_skipped(page):
    headings = [text.strip() for text in page.inside("h1", "h2")]
    assert headings == [
        "LeNet-5 on MNIST",
        "Before and after",
        "Accuracy against the fraction removed",
        "Sparsity of the layers",
        "Safe pruning rate",
        "Course of training",
        "Notes",
        "How to get it again",
    ]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_run_is_in_the_tables(page):
    cells = page.inside("th", "td")
    for run in STUDY.runs:
        assert run.label in cells
        assert run.name in cells
    assert "98.12 %" in cells
    assert "416.5 k" in cells
    assert "246.8 kB" in cells
    assert any(re.fullmatch(r"0\.4\d\d ms \(IQR 0\.040\)", cell) for cell in cells)


def test_tables_and_figures_are_labelled(page):
    tables = page.all("table")
    assert len(page.all("caption")) == len(tables)
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    drawings = [a for a in page.all("div") if "data-chart" in a]
    assert (
        len(page.all("figure"))
        == len(page.all("figcaption"))
        == len(page.all("details"))
        == len(drawings)
        == 6
    )
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 40 for a in drawings)
    assert all(
        a["tabindex"] == "0" and a["aria-label"] for a in page.all("div") if a.get("class") == "scroll"
    )
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_charts_are_there_without_javascript(page):
    assert len(page.all("svg")) == 6
    assert "safe rate" in " ".join(page.inside("text"))


def test_nothing_is_fetched(html, page):
    for tag, attributes in page.tags:
        assert not {"src", "action", "srcset"} & set(attributes), tag
        assert attributes.get("href", "#").startswith(("#", "data:"))
    own = re.sub(r'<script type="module">const .*?</script>', "", html, count=1, flags=re.DOTALL)
    assert len(own) < len(html) - 800_000
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", own))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"@import|url\((?!data:)", own)
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_names_from_outside_stay_text():
    dense, *pruned = STUDY.runs
    runs = [replace(run, name=f"{EVIL}{index}", label=f"{EVIL}{index}") for index, run in enumerate(pruned)]
    content = replace(STUDY, title=EVIL, recipe=EVIL, command=EVIL, notes=[EVIL], runs=[dense, *runs])
    html = render(content)
    page = Page(html)
    assert len(page.all("script")) == len(Page(render(STUDY)).all("script"))
    assert "<!-- <b>" not in html
    assert not page.all("b")
    assert EVIL in page.inside("h1")
    assert EVIL in page.inside("code")
    specs = json.loads(next(text for text in page.inside("script") if text.startswith('{"')))
    assert EVIL in json.dumps(specs, ensure_ascii=False).replace('\\"', '"')


def test_sections_without_data_are_left_out():
    page = Page(render(ReportContent(title="Nothing yet")))
    assert list(page.inside("h1", "h2")) == ["Nothing yet"]
    assert not page.all("table")
    assert len(page.all("script")) == 1


@pytest.mark.parametrize(
    ("without", "heading"),
    [
        ({"layers": ()}, "Sparsity of the layers"),
        ({"curves": ()}, "Course of training"),
        ({"safe_rate": None}, "Safe pruning rate"),
        ({"history": ()}, "Accuracy against the fraction removed"),
    ],
)
def test_each_section_goes_with_its_data(page, without, heading):
    runs = [replace(run, **without) for run in STUDY.runs]
    headings = Page(render(replace(STUDY, runs=runs))).inside("h2")
    assert heading not in headings
    assert heading in page.inside("h2")


def test_the_best_result_is_told_in_words():
    best, safe = words.summary(STUDY.runs)
    assert best == (
        "Magnitude, global: 80 % of the prunable weights removed, 98.10 % top-1 after retraining"
        " instead of 98.12 %. Of 6 results it is the sparsest within 0.5 points of the dense top-1."
    )
    assert safe == (
        "The safe rate of dense, predicted from its weights alone, is 60.8 %;"
        " no run here shows the accuracy as cut there."
    )


def test_a_cut_and_its_retrained_version_are_two_results():
    whole = RunView("done", "done", history=study.history("magnitude, global", 0.8))
    cut = RunView("cut", "cut", history=whole.history[:2])
    found = {outcome.stage: outcome.top1s for outcome in words.outcomes([cut, whole])}
    assert found == {"as cut": [cut.as_cut["top1"]], "after retraining": [whole.retrained["top1"]]}
    (told,) = words.summary([cut, whole])
    assert "Of 2 results" in told
    assert f"{100 * whole.retrained['top1']:.2f} % top-1 after retraining" in told


def test_the_safe_rate_is_told_with_the_accuracy_measured_there():
    whole = RunView("done", "done", history=study.history("magnitude, global", 0.8))
    dense = RunView("dense", "dense", history=whole.history[:1], safe_rate={"safe": 0.81})
    told = words.summary([dense, whole])[-1]
    cut, before = whole.as_cut["top1"], dense.before["top1"]
    assert told.endswith(
        f"is 81 %; measured as cut at 80 % (done): {100 * cut:.2f} % top-1 instead of {100 * before:.2f} %."
    )
    other = RunView("other", "other", history=study.history("random, global", 0.8))
    assert "no run here shows" in words.summary([dense, other])[-1]


def test_sparsity_has_one_meaning():
    runs = [replace(run, measurement=None) for run in STUDY.runs]
    assert "sparsity" not in {column.key for column in comparison.results(runs).columns}
    assert "Removed" in [
        column.title for figure in sections.accuracy(STUDY) for column in figure.table.columns
    ]


def test_where_none_is_near_the_most_accurate_is_told():
    far = [run for run in STUDY.runs if "random" in run.name]
    (told,) = words.summary(far)
    assert told.startswith("Random, global: 80 %")
    assert told.endswith(
        "Of 2 results it is the most accurate; none is within 0.5 points of the dense top-1."
    )


def test_seeds_are_told_as_mean_and_range():
    runs = [
        RunView(f"run-{seed}", f"run-{seed}", history=study.history("magnitude, global", 0.8, seed))
        for seed in range(3)
    ]
    (told,) = words.summary(runs)
    finals = [run.final["top1"] for run in runs]
    assert f"{100 * sum(finals) / 3:.2f} % top-1" in told
    assert f"(mean of 3 runs, {100 * min(finals):.2f} % to {100 * max(finals):.2f} %)" in told


def test_a_cut_without_retraining_and_a_dense_run_are_told():
    cut = RunView("cut", "cut", history=study.history("magnitude, global", 0.8)[:2])
    assert "top-1 as cut instead of 98.12 %." in words.summary([cut])[0]
    dense = RunView("dense", "dense", history=[study.dense_entry()])
    assert words.summary([dense]) == ["The dense model reaches 98.12 % top-1."]


def test_masks_are_said_to_bring_no_speed_only_where_there_are_masks():
    assert "takes the memory, the MACs and the time of the dense one" in words.masks_bring_no_speed(
        STUDY.runs
    )
    assert words.masks_bring_no_speed(STUDY.runs[:1]) == ""


def test_a_shared_beginning_counts_once():
    rows = sections.accuracy_rows(STUDY.runs)
    assert [row["stage"] for row in rows].count("dense") == 1
    assert len(rows) == 1 + 2 * 6
    train, retrain = sections.training(STUDY)
    assert len(train.table.rows) == 10
    assert len(retrain.table.rows) == 6 * 3


def test_every_round_of_an_iterative_pruning_is_a_point():
    first, second = study.history("magnitude, global", 0.8), study.history("magnitude, global", 0.95)
    rows = sections.accuracy_rows([RunView("twice", "twice", history=[*first, *second[1:]])])
    assert [(row["stage"], row["sparsity"]) for row in rows] == [
        ("dense", 0.0),
        ("as cut", 0.8),
        ("retrained", 0.8),
        ("as cut", 0.95),
        ("retrained", 0.95),
    ]


def test_two_models_get_a_figure_each():
    def on(run: RunView, data: str) -> RunView:
        first, *rest = run.history
        return replace(run, history=[{**first, "config": {**first["config"], "data": data}}, *rest])

    content = replace(STUDY, runs=[*STUDY.runs, *(on(run, "fashion-mnist") for run in STUDY.runs)])
    titles = [figure.title for figure in sections.accuracy(content)]
    assert titles == ["Accuracy of lenet5 on mnist", "Accuracy of lenet5 on fashion-mnist"]
    assert [told.partition(":")[0] for told in words.summary(content.runs)[:2]] == [
        "lenet5 on mnist",
        "lenet5 on fashion-mnist",
    ]


def test_the_comparison_keeps_raw_numbers_in_the_order_of_the_runs():
    rows = [comparison.compared(run) for run in STUDY.runs]
    assert [row["label"] for row in rows] == [run.label for run in STUDY.runs]
    last = STUDY.runs[-1]
    assert rows[-1]["against_dense"] == pytest.approx(last.final["top1"] - 0.9812)
    assert rows[-1]["latency_256"] == last.measurement.latencies[1].median
    assert rows[0]["against_dense"] is None
