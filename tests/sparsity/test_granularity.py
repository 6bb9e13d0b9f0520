"""Granularities by name, and patterns N:M: exactly N stay of every M along the inputs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.core.errors import InputError
from secateur.sparsity.granularity import parse

PATTERNS = ["1:1", "1:2", "1:4", "2:4", "3:4", "4:4", "2:8", "5:6", "7:40"]
SHAPES = [(3, 2), (5, 1, 3, 3), (2, 3, 1), (1, 2, 2, 1, 2), (0, 1), (4, 0, 3, 3), (2, 5, 0, 3)]


def by_loops(scores: Tensor, n: int, m: int) -> Tensor:
    """One group after another: the lowest goes until n are left, the first among equals first."""
    kept = torch.ones(scores.shape, dtype=torch.bool)
    outputs, inputs, *kernel = scores.shape
    for out in range(outputs):
        for position in itertools.product(*map(range, kernel)):
            for start in range(0, inputs, m):
                places = [(out, i, *position) for i in range(start, start + m)]
                for place in sorted(places, key=lambda place: float(scores[place]))[: m - n]:
                    kept[place] = False
    return kept


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_against_explicit_loops(pattern: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    n, m = map(int, pattern.split(":"))
    shape = (shape[0], shape[1] * m, *shape[2:])
    generator = torch.Generator().manual_seed(m)
    for levels in (1, 3, 1000):  # all equal, many ties, few
        scores = (torch.randint(levels, shape, generator=generator) / 8).to(dtype)
        assert torch.equal(parse(pattern).mask(scores), by_loops(scores, n, m))


@given(out=st.integers(1, 4), groups=st.integers(1, 4), m=st.integers(1, 8), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_group_keeps_exactly_n(out: int, groups: int, m: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, m))
    kernel = data.draw(st.lists(st.integers(1, 3), max_size=2))
    scores = torch.rand(out, groups * m, *kernel, generator=torch.Generator().manual_seed(out))
    kept = parse(f"{n}:{m}").mask(scores)
    assert kept.shape == scores.shape
    for start in range(0, groups * m, m):
        assert (kept[:, start : start + m].sum(1) == n).all()


def test_memory_layout_does_not_matter() -> None:
    scores = torch.rand(8, 8, 3, 3)
    strange = scores.to(memory_format=torch.channels_last)
    assert torch.equal(parse("2:4").mask(strange), parse("2:4").mask(scores))
    assert torch.equal(parse("2:4").mask(scores.mT.mT), parse("2:4").mask(scores))


@given(seed=st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_earlier_cuts_stay_and_the_pattern_keeps_what_it_can(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {"w": torch.randint(3, (4, 12, 2), generator=generator).float(), "v": torch.rand(2, 4)}
    earlier = {
        "w": torch.rand(4, 12, 2, generator=generator) < 0.6,
        "elsewhere": torch.ones(3, dtype=torch.bool),
    }
    masks = parse("2:4").masks(scores, already=earlier)
    assert list(masks) == ["w", "v"]
    assert not (masks["w"] & ~earlier["w"]).any()
    left = earlier["w"].unflatten(1, (3, 4)).sum(2)
    assert torch.equal(masks["w"].unflatten(1, (3, 4)).sum(2), left.clamp(max=2))
    assert (masks["v"].sum(1) == 2).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_cannot_be_ranked_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="The scores of w hold NaN or infinity"):
        parse("1:2").masks({"w": torch.tensor([[1.0, bad]])})


def test_why_a_shape_does_not_fit() -> None:
    pattern = parse("2:4")
    assert pattern.misfit((3, 8)) is None
    assert pattern.misfit((3, 8, 5, 5)) is None
    assert pattern.misfit((3, 6)) == "its input size 6 is not a multiple of 4"
    assert pattern.misfit((8,)) == pattern.misfit(()) == "it has no input dimension"


@pytest.mark.parametrize(("text", "amount"), [("1:4", 0.75), ("2:4", 0.5), ("4:4", 0.0), ("1:32", 31 / 32)])
def test_a_pattern_fixes_the_amount(text: str, amount: float) -> None:
    assert parse(text).amount == amount
    assert parse("weight").amount is None


@pytest.mark.parametrize("name", ["channel", "head", "layer"])
def test_units_go_by_their_name_and_leave_the_amount_to_the_caller(name: str) -> None:
    unit = parse(name)
    assert (unit.kind, unit.amount, unit.removes) == (name, None, True)


@pytest.mark.parametrize(("text", "kind"), [("weight", "weight"), ("2:4", "n:m")])
def test_weights_and_patterns_do_not_make_a_model_smaller(text: str, kind: str) -> None:
    assert (parse(text).kind, parse(text).removes) == (kind, False)


@pytest.mark.parametrize("text", ["5:4", "0:4", "0:0", "1:0"])
def test_patterns_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=rf"^The pattern {text} makes no sense: .*0 < N ≤ M\.$"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "2:",
        ":4",
        "2:4:8",
        "-1:4",
        "2.0:4",
        " 2:4",
        "2:4\n",
        "two:four",
        "column",
        "channels",
        "Head",
        "layer ",
        "channel:2",
        None,
        4,
        "2:" + "9" * 5000,
    ],
)
def test_other_granularities_are_refused(text: str) -> None:
    with pytest.raises(
        InputError, match=r"(?s)^There is no granularity '.*': choose weight, .* N:M"
    ) as caught:
        parse(text)
    assert all(f" {name}," in str(caught.value) for name in ("channel", "head", "layer"))


def test_the_form_of_a_pattern_is_answered_with_patterns() -> None:
    with pytest.raises(
        InputError, match=r"^There is no granularity 'n:m': here it is 2:4, or another pattern N:M"
    ):
        parse("n:m")
