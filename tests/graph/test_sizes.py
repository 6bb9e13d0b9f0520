"""Sizes are integers like any other, and know what they were computed from."""

from __future__ import annotations

import copy
import json
import math
import operator
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secateur.graph.sizes import (
    Attribute,
    Extent,
    Leaf,
    Scale,
    TracedSize,
    evaluate,
    leaves,
    own,
    remembering,
)

BINARY = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "/": operator.truediv,
    "%": operator.mod,
    "**": operator.pow,
}
UNARY = {"-": operator.neg, "+": operator.pos, "abs": abs}
Recipe = tuple[Any, ...]
"""("size", n), ("plain", n), ("real", x), or a name of an operator with one or two recipes."""

small = st.integers(-7, 7)
recipes = st.recursive(
    st.one_of(
        st.tuples(st.just("size"), small),
        st.tuples(st.just("plain"), small),
        st.tuples(st.just("real"), st.sampled_from([-0.5, 0.5, 2.0])),
    ),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["+", "-", "*", "//", "/", "%"]), inner, inner),
        st.tuples(st.sampled_from(list(UNARY)), inner),
    ),
    max_leaves=8,
)


def compute(recipe: Recipe, leaf: Callable[[int], Any]) -> Any:
    """Compute a recipe with `leaf(n)` for each of its sizes."""
    kind, *operands = recipe
    if kind == "size":
        return leaf(operands[0])
    if kind in ("plain", "real"):
        return operands[0]
    function = UNARY[kind] if len(operands) == 1 else BINARY[kind]
    return function(*(compute(operand, leaf) for operand in operands))


def plain(recipe: Recipe, add: int = 0) -> Any:
    """Compute a recipe with ordinary integers, each size `add` larger; skip what Python can't."""
    try:
        return compute(recipe, lambda n: n + add)
    except ZeroDivisionError:
        assume(False)


def forgetful(recipe: Recipe) -> bool:
    """Whether a plain float is the left operand of a size: float computes that, and knows nothing of sizes."""
    kind, *operands = recipe
    if kind in ("size", "plain", "real"):
        return False
    values = [compute(operand, size) for operand in operands]
    lost = type(values[0]) is float and type(values[-1]) is TracedSize
    return lost or any(forgetful(operand) for operand in operands)


def size(value: int) -> TracedSize:
    return TracedSize(value, Attribute(f"m:n{value}"))


def same(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other)


@settings(max_examples=200, deadline=None)
@given(recipes)
def test_arithmetic_gives_the_numbers_and_types_of_plain_integers(recipe: Recipe) -> None:
    expected = plain(recipe)
    found = compute(recipe, size)
    assert same(found, expected)
    assert isinstance(found, type(expected))
    assert type(found) in (TracedSize, Scale, type(expected))
    assert hash(found) == hash(expected)


@settings(max_examples=200, deadline=None)
@given(recipes, st.integers(1, 3))
def test_an_expression_is_evaluated_again_with_other_leaves(recipe: Recipe, add: int) -> None:
    plain(recipe)
    found = compute(recipe, size)
    assume(type(found) in (TracedSize, Scale))
    assert same(evaluate(found, lambda leaf, old: old), found)
    if not forgetful(recipe):
        assert same(evaluate(found, lambda leaf, old: old + add), plain(recipe, add))


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(("left", "right"), [(True, False), (False, True), (True, True)])
def test_every_operator_remembers_both_sides(name: str, left: bool, right: bool) -> None:
    one, other = size(7) if left else 7, size(2) if right else 2
    result = BINARY[name](one, other)
    assert result == BINARY[name](7, 2)
    assert type(result) in (TracedSize, Scale)
    assert [old for _, old in leaves(result)] == [7] * left + [2] * right
    assert evaluate(result, lambda leaf, old: old + 4) == BINARY[name](7 + 4 * left, 2 + 4 * right)


@pytest.mark.parametrize("name", BINARY)
def test_a_scale_goes_on_remembering(name: str) -> None:
    half = size(9) / 2
    for one, other in ((half, 2), (half, 2.0), (half, size(2)), (size(2), half), (2, half), (2.0, half)):
        result = BINARY[name](one, other)
        assert type(result) is Scale
        assert result == BINARY[name](float(one), float(other))
        assert Attribute("m:n9") in [leaf for leaf, _ in leaves(result)]


def test_one_of_several_leaves_changes() -> None:
    width, heads = TracedSize(64, Attribute("m:width")), TracedSize(8, Attribute("m:heads"))
    features = width // heads

    def leaf(origin: Leaf, old: int) -> int:
        return 4 if origin == Attribute("m:heads") else old

    assert (features, evaluate(features, leaf)) == (8, 16)
    assert list(leaves(-features)) == [(Attribute("m:width"), 64), (Attribute("m:heads"), 8)]


def test_a_division_by_nothing_gives_nothing() -> None:
    assert evaluate(size(6) // size(3), lambda leaf, old: 0) == 0


@pytest.mark.parametrize("value", [5, -1, 2.5, None, "text", True])
def test_what_is_no_size_is_what_it_is(value: object) -> None:
    assert evaluate(value, lambda leaf, old: 99) is value
    assert list(leaves(value)) == []


def test_other_uses_are_those_of_an_integer() -> None:
    six = TracedSize(6, Extent(3, 1))
    assert [0] * six == [0] * 6
    assert list(range(six)) == list(range(6))
    assert "abcdefgh"[six] == "g"
    assert f"{six} {six:03d} {six!r}" == "6 006 6"
    assert json.dumps({"n": six}) == '{"n": 6}'
    assert {6: "found"}[six] == "found"
    assert (six == 6, six < 7, bool(six), bool(TracedSize(0, Attribute("m:n")))) == (True, True, True, False)
    assert type(int(six)) is int
    assert divmod(six, 4) == (1, 2)
    assert (six & 3, six << 1, round(six), math.gcd(six, 4), pow(six, 2, 5)) == (2, 12, 6, 2, 1)
    assert math.prod([six, six]) == sum([six] * 6) == 36
    with pytest.raises(ZeroDivisionError):
        six // 0


def test_a_copy_is_the_same_and_a_pickle_is_plain() -> None:
    half = size(3) / 2
    assert copy.deepcopy([size(3)])[0].origin == Attribute("m:n3")
    assert copy.deepcopy(half) is half
    for value, kind in ((size(3), int), (half, float)):
        again = pickle.loads(pickle.dumps(value))
        assert (again, type(again)) == (value, kind)


def test_roots_are_remembered_while_the_block_runs() -> None:
    before = math.sqrt
    with remembering(lambda: None):
        root, plain_root = math.sqrt(size(16)), math.sqrt(9)
        again = math.sqrt(root)
    assert math.sqrt is before
    assert (root, plain_root, again) == (4.0, 3.0, 2.0)
    assert (type(root), type(plain_root), type(again)) == (Scale, float, Scale)
    assert evaluate(1 / root, lambda leaf, old: 64) == 1 / 8
    assert type(math.sqrt(size(16))) is float


def test_the_root_is_put_back_after_an_error_and_from_inside_another_block() -> None:
    before = math.sqrt
    with pytest.raises(ValueError, match="domain"), remembering(lambda: None):
        math.sqrt(size(-1))
    assert math.sqrt is before
    with remembering(lambda: None), remembering(lambda: None):
        assert type(math.sqrt(size(4))) is Scale
    assert math.sqrt is before


def test_a_number_of_another_trace_is_a_plain_number() -> None:
    with remembering(lambda: None):
        old = size(6)
        half = old / 2
    with remembering(lambda: None):
        new = size(4)
        assert [type(n) for n in (old + 1, 1 + old, old * old, half * 2, math.sqrt(old))] == [int] * 3 + [
            float
        ] * 2
        for mixed, value in (
            (old + new, 10),
            (new + old, 10),
            (old - new, 2),
            (new - half, 1.0),
        ):
            assert mixed == value
            assert [origin for origin, _ in leaves(mixed)] == [Attribute("m:n4")]
        assert [own(old), own(half), own(new)] == [6, 3.0, 4]
        assert [type(own(each)) for each in (old, half, new)] == [int, float, TracedSize]
    assert type(old + 1) is TracedSize  # no trace runs: programs are evaluated


def test_a_look_up_by_a_number_is_announced_while_its_trace_runs() -> None:
    looked_up = []
    table = {4: "four", 2.0: "two"}
    with remembering(lambda: looked_up.append(1)):
        four, two = size(4), math.sqrt(size(4))
        assert table[four] == "four"
        assert table[two] == "two"
        assert four in {4}
        assert len(looked_up) == 3
    assert table[four] == "four"
    assert hash(four) == hash(4)
    assert len(looked_up) == 3
