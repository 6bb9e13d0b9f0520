from __future__ import annotations

import csv
import io
import json
import math
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from secateur.core import tables
from secateur.core.tables import BYTES, COUNT, MILLISECONDS, NUMBER, PERCENT, POINTS, SI, TEXT, Column, Table

TABLE = Table(
    [
        Column("run", "Run", help="the <name>"),
        Column("top1", "Top-1", PERCENT),
        Column("parameters", "Parameters", COUNT),
        Column("latency", "Latency", MILLISECONDS, spread="latency_iqr"),
    ],
    [
        {"run": "dense", "top1": 0.9173, "parameters": 61706, "latency": 0.000412, "latency_iqr": 0.000026},
        {"run": "[red]a|b<script>", "top1": math.nan, "parameters": None},
    ],
)


@pytest.mark.parametrize(
    ("format", "value", "text"),
    [
        (PERCENT, 0.9173, "91.73 %"),
        (PERCENT, 0, "0.00 %"),
        (POINTS, -0.0021, "−0.21 pp"),
        (POINTS, 0.0021, "+0.21 pp"),
        (COUNT, 61706, "61,706"),
        (SI, 416520, "416.5 k"),
        (SI, 1.8e9, "1.8 G"),
        (SI, 625, "625"),
        (SI, 999_960, "1 M"),
        (SI, 4.5e21, "4,500,000 P"),
        (BYTES, 246824, "246.8 kB"),
        (BYTES, 999.99, "1 kB"),
        (BYTES, 12, "12 B"),
        (MILLISECONDS, 0.000412, "0.412 ms"),
        (MILLISECONDS, 0.0123, "12.3 ms"),
        (MILLISECONDS, 1.234, "1234 ms"),
        (MILLISECONDS, 0, "0 ms"),
        (NUMBER, 0.0432174, "0.04322"),
        (TEXT, "x", "x"),
    ],
)
def test_formats_write_what_the_field_reads(format, value, text):
    assert Column("key", "Title", format).cell({"key": value}) == text


@given(st.floats(1e-6, 1e17))
def test_prefixed_numbers_stay_within_rounding_and_below_a_thousand(value):
    digits, _, unit = tables.si(value).partition(" ")
    factor = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}[unit]
    assert float(digits) * factor == pytest.approx(value, rel=5.1e-4)
    assert float(digits) < 1000


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_is_missing_is_a_dash(value):
    assert Column("key", "Title", PERCENT).cell({"key": value}) == Column("key", "Title").cell({}) == "–"


def test_infinity_is_written_and_left_out_of_json():
    table = Table([Column("loss", "Loss", NUMBER)], [{"loss": math.inf}, {"loss": -math.inf}])
    assert table.cells() == [["∞"], ["−∞"]]
    assert json.loads(table.json()) == [{"loss": None}, {"loss": None}]


def test_the_spread_follows_the_median():
    assert TABLE.cells()[0][-1] == "0.412 ms (IQR 0.026)"


def test_json_and_csv_carry_raw_numbers():
    assert json.loads(TABLE.json())[0] == dict(TABLE.rows[0])
    first, second = csv.DictReader(io.StringIO(TABLE.csv()))
    assert float(first["top1"]) == 0.9173
    assert float(first["latency_iqr"]) == 0.000026
    assert second["top1"] == second["latency"] == ""


def test_markdown_is_aligned_and_escaped():
    lines = TABLE.markdown().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith("| :--")
    assert lines[1].endswith("-: |")
    assert r"a\|b" in lines[3]


def test_the_terminal_shows_cells_literally_and_numbers_on_the_right():
    out = io.StringIO()
    Console(file=out, width=120, color_system=None).print(TABLE.rich("All [bold]runs"))
    assert "[red]a|b<script>" in out.getvalue()
    assert "All [bold]runs" in out.getvalue()
    assert [column.justify for column in TABLE.rich().columns] == ["left", "right", "right", "right"]


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(str(page))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_html_heads_rows_and_columns_and_escapes():
    page = Tags(TABLE.html("All <runs>"))
    scopes = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert scopes == ["col"] * 4 + ["row"] * 2
    assert sum(tag == "td" for tag, _ in page.tags) == 6
    assert "script" not in dict(page.tags)
    assert "All <runs>" in page.text
    assert "[red]a|b<script>" in page.text
    assert page.tags[4][1]["title"] == "the <name>"


def test_columns_without_values_are_left_out():
    table = Table([*TABLE.columns, Column("macs", "MACs", SI)], TABLE.rows)
    assert [column.key for column in table.without_empty_columns().columns] == [c.key for c in TABLE.columns]


def test_an_alignment_overrides_that_of_the_format():
    assert Column("top1", "Top-1", PERCENT, align="left").side == "left"


def test_a_table_without_rows_is_written():
    table = Table(TABLE.columns, [])
    assert table.json() == "[]"
    assert len(table.markdown().splitlines()) == 2
