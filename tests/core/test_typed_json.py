"""JSON to values of declared types: nothing is converted, and what does not fit is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from secateur.core.typed_json import TypeMismatch, typed


@dataclass(frozen=True)
class Inner:
    path: tuple[int | str, ...]
    value: int | float
    of: int = 0


@dataclass(frozen=True)
class Outer:
    sizes: dict[str, tuple[int, ...]]
    inner: tuple[Inner, ...]
    names: dict[str, int] = field(default_factory=dict)


def test_what_fits_becomes_values() -> None:
    told = {"sizes": {"a": [1, 2]}, "inner": [{"path": [1, "x"], "value": 2.5, "of": 3, "more": 0}]}
    assert typed(Outer, told) == Outer({"a": (1, 2)}, (Inner((1, "x"), 2.5, 3),))
    assert typed(Outer, {"sizes": {}, "inner": [], "names": {"b": -1}}) == Outer({}, (), {"b": -1})


@pytest.mark.parametrize(
    ("told", "place"),
    [
        (None, ""),
        ([], ""),
        ({"inner": []}, "sizes"),
        ({"sizes": [], "inner": []}, "sizes"),
        ({"sizes": {"a": [1, True]}, "inner": []}, "sizes.a.1"),
        ({"sizes": {"a": [1.0]}, "inner": []}, "sizes.a.0"),
        ({"sizes": {"a": "12"}, "inner": []}, "sizes.a"),
        ({"sizes": {}, "inner": [{"path": [], "value": "2"}]}, "inner.0.value"),
        ({"sizes": {}, "inner": [{"path": [], "value": True}]}, "inner.0.value"),
        ({"sizes": {}, "inner": [{"path": [1.0], "value": 2}]}, "inner.0.path.0"),
        ({"sizes": {}, "inner": [{"value": 2}]}, "inner.0.path"),
        ({"sizes": {}, "inner": [3]}, "inner.0"),
    ],
)
def test_what_does_not_fit_is_named(told: Any, place: str) -> None:
    with pytest.raises(TypeMismatch) as caught:
        typed(Outer, told)
    assert caught.value.place == place
