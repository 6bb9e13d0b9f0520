"""Plain data in YAML: numbers as in YAML 1.2, and refusals of everything that is no plain data."""

from __future__ import annotations

import math
from typing import Any

import pytest

from secateur.core.errors import InputError
from secateur.core.plain_yaml import parse_yaml, word, write_yaml

READINGS: dict[str, Any] = {
    "1e-4": 1e-4, "-1E5": -1e5, "1.": 1.0, ".5": 0.5, "1_000": 1000, "010": 10, "0x1f": 31, "0o17": 15, "+3": 3,
    "1:30": "1:30", "2024-13-45": "2024-13-45", "2024-01-01": "2024-01-01", "e5": "e5", "1e": "1e", "_": "_",
    "true": True, "~": None, ".inf": math.inf, "nan": "nan", "l1": "l1",
}  # fmt: skip


@pytest.mark.parametrize("text", READINGS)
def test_a_plain_word_is_read_as_in_yaml_1_2(text: str) -> None:
    found = word(text)
    assert (type(found), found) == (type(READINGS[text]), READINGS[text])


@pytest.mark.parametrize(
    "value", [*READINGS, *READINGS.values(), 1e-5, 1e22, "", "a: b", "[", "0", "yes", "1.0"]
)
def test_what_is_written_is_read_back(value: Any) -> None:
    found = parse_yaml(write_yaml({"key": [value]}), "the document")["key"][0]
    assert (type(found), found) == (type(value), value)


REFUSED = {
    "value in itself": "a: &m {x: *m}",
    "list in itself": "&m [*m]",
    "many values behind aliases": "\n".join(
        ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
        + [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    ),
    "key twice": "{a: 1, a: 2}",
    "open bracket": "[",
    "number of 5000 digits": "9" * 5000,
    "no number": "!!int x",
    "no truth": "!!bool x",
    "no date": "!!timestamp x",
    "date": "!!timestamp 2024-01-01",
    "set": "!!set {a}",
    "bytes": "!!binary aGk=",
    "code": "!!python/object/apply:os.system [ls]",
    "deep": "[" * 3000,
    "NUL": "a\0b",
}


@pytest.mark.parametrize("case", REFUSED)
def test_everything_else_is_refused_in_one_sentence(case: str) -> None:
    with pytest.raises(InputError, match=r"^the file (is not valid YAML|holds no plain data).*\.$"):
        parse_yaml(REFUSED[case], "the file")
    assert word(REFUSED[case]) == REFUSED[case]
