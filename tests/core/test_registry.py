"""Names to things, and sentences for names that lead nowhere."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.errors import InputError
from secateur.core.registry import Registry, unknown
from secateur.core.seeds import seed_of


def colours() -> Registry[int]:
    registry: Registry[int] = Registry("colour")
    for number, name in enumerate(["red", "green", "blue"]):
        registry.add(name, number)
    return registry


def test_a_registry_is_a_mapping_in_the_order_of_registration() -> None:
    registry = colours()
    assert dict(registry) == {"red": 0, "green": 1, "blue": 2}
    assert list(registry) == ["red", "green", "blue"]
    assert "red" in registry
    assert "pink" not in registry
    assert registry.get("green") == 1


def test_the_decorator_registers_and_gives_back() -> None:
    registry: Registry[object] = Registry("thing")

    @registry.register("shape")
    def shape() -> str:
        return "round"

    assert registry["shape"] is shape


def test_a_name_is_given_once() -> None:
    registry = colours()
    with pytest.raises(InputError, match="There is a colour named 'red' already"):
        registry.add("red", 9)
    assert registry["red"] == 0


@pytest.mark.parametrize("name", ["pink", "", "RED", None, 3, 2.5, ("red",), ["red"], {"red": 1}])
def test_unknown_names_are_refused_with_a_way_out(name: object) -> None:
    with pytest.raises(InputError, match=r"^There is no colour named '.*': .*\.$|did you mean") as caught:
        colours()[name]  # type: ignore[index]
    assert "red" in str(caught.value)


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(InputError, match=r"did you mean green"):
        colours()["gren"]


def test_an_empty_registry_has_nothing_to_choose_from() -> None:
    with pytest.raises(InputError, match="there is none to choose from"):
        Registry("colour")["red"]


def test_long_lists_are_pointed_to_rather_than_printed() -> None:
    known = [f"model{number}" for number in range(1000)]
    assert (
        unknown("model", "zzz", known, "the list of models")
        == "There is no model named 'zzz': see the list of models."
    )


parts = st.lists(st.text(max_size=5) | st.integers(), max_size=4)


@given(parts, parts)
def test_seeds_differ_where_their_purpose_does(one: list[str | int], other: list[str | int]) -> None:
    assert 0 <= seed_of(*one) < 2**63
    assert (seed_of(*one) == seed_of(*other)) == (one == other)


def test_seeds_are_the_same_in_every_process() -> None:
    code = "from secateur.core.seeds import seed_of; print(seed_of('order', 7, 'layer1.weight'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) == seed_of("order", 7, "layer1.weight")
