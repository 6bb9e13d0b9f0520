"""Spreading an amount: exactly k entries go, the lowest first, however the scores look."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria.lamp import lamp_scores
from secateur.pruning.allocate_weights import (
    SCOPES,
    allocate,
    check_amount,
    erk_counts,
    keep_highest,
    redistributed,
)
from secateur.sparsity.masks import Masks

EVERY = sorted(SCOPES)
TOGETHER = [scope for scope in EVERY if scope != "local"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
AMOUNTS = np.random.default_rng(0).uniform(0, 1, 100).tolist()

amounts = st.floats(0, 1)
shapes = st.lists(st.lists(st.integers(0, 5), max_size=4).map(tuple), min_size=1, max_size=5)


def tied_scores(
    shapes: list[tuple[int, ...]], dtype: torch.dtype, seed: int, levels: int
) -> dict[str, Tensor]:
    """Scores of `levels` different values at most: the fewer, the more ties."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layer{i}.weight": torch.randint(levels, shape, generator=generator).to(dtype) / 8
        for i, shape in enumerate(shapes)
    }


def lowest_first(scores: list[float], cut: int) -> list[bool]:
    """What is kept when the `cut` lowest go one by one, the first among equals first."""
    kept = [True] * len(scores)
    for _ in range(cut):
        left = [(score, i) for i, score in enumerate(scores) if kept[i]]
        kept[min(left)[1]] = False
    return kept


def lamp_by_definition(scores: list[float]) -> list[float]:
    """s_u² over the sum of s_v² of all that come at or after u in ascending order."""
    ascending = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    lamp = [0.0] * len(scores)
    for rank, i in enumerate(ascending):
        below = math.fsum(scores[j] ** 2 for j in ascending[rank:])
        lamp[i] = scores[i] ** 2 / below if below else 0.0
    return lamp


def total(scores: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in scores.values())


# --- exactly k ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", TOGETHER)
@given(
    shapes=shapes,
    amount=amounts,
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    levels=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_exactly_k_go_in_all(
    scope: str, shapes: list[tuple[int, ...]], amount: float, dtype: torch.dtype, seed: int, levels: int
) -> None:
    scores = tied_scores(shapes, dtype, seed, levels)
    masks = allocate(scores, amount, scope, allow_empty=True)
    assert masks.pruned == round(amount * total(scores))
    assert {name: mask.shape for name, mask in masks.items()} == {name: t.shape for name, t in scores.items()}


@given(
    shapes=shapes,
    amount=amounts,
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    levels=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_local_takes_exactly_k_of_every_tensor_lowest_first(
    shapes: list[tuple[int, ...]], amount: float, dtype: torch.dtype, seed: int, levels: int
) -> None:
    scores = tied_scores(shapes, dtype, seed, levels)
    for name, mask in allocate(scores, amount, "local").items():
        expected = lowest_first(
            scores[name].double().flatten().tolist(), round(amount * scores[name].numel())
        )
        assert mask.flatten().tolist() == expected


@given(
    shapes=shapes,
    amount=amounts,
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    levels=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_global_takes_the_lowest_of_all_the_first_among_equals(
    shapes: list[tuple[int, ...]], amount: float, dtype: torch.dtype, seed: int, levels: int
) -> None:
    scores = tied_scores(shapes, dtype, seed, levels)
    everything = [score for tensor in scores.values() for score in tensor.double().flatten().tolist()]
    masks = allocate(scores, amount, "global", allow_empty=True)
    kept = [keep for mask in masks.values() for keep in mask.flatten().tolist()]
    assert kept == lowest_first(everything, round(amount * len(everything)))


@pytest.mark.parametrize("scope", EVERY)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_hundred_random_amounts(scope: str, dtype: torch.dtype) -> None:
    sizes = {"conv.weight": (16, 3, 5, 5), "fc.weight": (10, 333), "norm.weight": (16,), "scale": ()}
    generator = torch.Generator().manual_seed(1)
    for constant in (False, True):
        scores = {
            name: torch.ones(shape, dtype=dtype)
            if constant
            else torch.rand(shape, generator=generator).to(dtype)
            for name, shape in sizes.items()
        }
        for amount in AMOUNTS:
            masks = allocate(scores, amount, scope, allow_empty=True)
            if scope == "local":
                assert all(m.numel() - m.sum() == round(amount * m.numel()) for m in masks.values())
            else:
                assert masks.pruned == round(amount * total(scores))


@pytest.mark.parametrize("scope", EVERY)
@pytest.mark.parametrize(("amount", "pruned"), [(0, 0), (0.0, 0), (1, 30), (1.0, 30), (0.5, 15)])
def test_nothing_half_and_everything(scope: str, amount: float, pruned: int) -> None:
    scores = {"a": torch.arange(20.0).reshape(4, 5), "b": torch.arange(10.0)}
    assert allocate(scores, amount, scope, allow_empty=True).pruned == pruned


def test_tensors_of_different_dtypes_are_ranked_together_by_value() -> None:
    scores = {
        "half": torch.tensor([0.1, 0.3], dtype=torch.float16),
        "brain": torch.tensor([0.2, 0.4], dtype=torch.bfloat16),
        "double": torch.tensor([0.15, 0.1 + 1e-9], dtype=torch.float64),
        "whole": torch.tensor([0, 2**40]),
    }
    kept = {name: mask.tolist() for name, mask in allocate(scores, 0.5, "global", allow_empty=True).items()}
    # float16(0.1) = 0.09998 and bfloat16(0.2) = 0.2002: the four lowest are 0, 0.09998, 0.1 + 1e-9 and 0.15.
    assert kept == {
        "half": [False, True],
        "brain": [True, True],
        "double": [False, False],
        "whole": [False, True],
    }


@pytest.mark.timeout(60)
@pytest.mark.parametrize("order", ["descending", "ascending", "constant", "organ pipe"])
def test_selection_takes_linear_time_in_any_order(order: str) -> None:
    size = 3_000_000  # milliseconds; quadratic time would be minutes
    half = torch.linspace(1, 2, size // 2)
    scores = {
        "descending": torch.linspace(2, 1, size),
        "ascending": torch.linspace(1, 2, size),
        "constant": torch.ones(size),
        "organ pipe": torch.cat([half, half.flip(0)]),
    }[order]
    kept = keep_highest(scores, size // 5)
    assert int(kept.sum()) == size - size // 5
    assert float(scores[~kept].max()) <= float(scores[kept].min())


@given(
    st.lists(st.sampled_from([-1e300, -1.0, -0.0, 0.0, 1e-310, 1.0, 2.0, 1e300]), min_size=1, max_size=30),
    st.data(),
)
@settings(deadline=None)
def test_keep_highest_against_one_by_one(scores: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(scores)))
    expected = lowest_first([score + 0.0 for score in scores], cut)
    assert keep_highest(torch.tensor(scores, dtype=torch.float64), cut).tolist() == expected


# --- erk ---------------------------------------------------------------------------------------------------


def erk_by_bisection(
    shapes: dict[str, tuple[int, ...]], amount: float, room: dict[str, int]
) -> dict[str, float]:
    """Entries kept at the ε for which Σ min(room, ε · Σ dims) is the wanted total."""

    def kept(epsilon: float) -> dict[str, float]:
        return {name: min(room[name], epsilon * sum(shape or (1,))) for name, shape in shapes.items()}

    size = sum(math.prod(shape) for shape in shapes.values())
    wanted = size - round(amount * size)
    low, high = 0.0, 1.0 + size
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(kept(middle).values()) < wanted else (low, middle)
    return kept(high)


@given(shapes=shapes, amount=amounts, seed=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_erk_follows_the_published_densities(shapes: list[tuple[int, ...]], amount: float, seed: int) -> None:
    named = {f"layer{i}": shape for i, shape in enumerate(shapes)}
    sizes = {name: math.prod(shape) for name, shape in named.items()}
    size = sum(sizes.values())
    draw = np.random.default_rng(seed)
    spent = {name: int(draw.integers(0, n + 1)) if seed % 2 else 0 for name, n in sizes.items()}
    if sum(spent.values()) > round(amount * size):
        spent = dict.fromkeys(spent, 0)
    counts = erk_counts(named, amount, spent)
    expected = erk_by_bisection(named, amount, {name: n - spent[name] for name, n in sizes.items()})
    assert sum(counts.values()) == round(amount * size)
    for name, cut in counts.items():
        assert spent[name] <= cut <= sizes[name]
        assert abs(sizes[name] - cut - expected[name]) < 1 + 1e-6


def test_erk_densities_of_a_known_network() -> None:
    shapes = {
        "conv1": (6, 1, 5, 5),
        "conv2": (16, 6, 5, 5),
        "fc1": (120, 400),
        "fc2": (84, 120),
        "fc3": (10, 84),
    }
    counts = erk_counts(shapes, 0.8, {})
    density = {name: 1 - counts[name] / math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    assert sum(counts.values()) == round(0.8 * sum(math.prod(shape) for shape in shapes.values()))
    assert density["conv1"] == density["fc3"] == 1  # few weights for their dimensions
    assert density["fc1"] / raw["fc1"] == pytest.approx(density["fc2"] / raw["fc2"], rel=1e-3)
    assert density["conv2"] / raw["conv2"] == pytest.approx(density["fc2"] / raw["fc2"], rel=1e-2)


# --- lamp --------------------------------------------------------------------------------------------------


def test_lamp_of_the_published_example() -> None:
    lamp = lamp_scores(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0]))
    assert lamp.tolist() == pytest.approx([9 / 50, 1 / 55, 4 / 54, 1, 16 / 41])
    of_squares = lamp_scores(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0]).sqrt())
    assert of_squares.tolist() == pytest.approx([0.25, 1 / 15, 1 / 7, 1, 4 / 9])


positive = st.floats(0, 2.0**100, width=32) | st.sampled_from([0.0, 1e-30, 1e-45, 1.0, 1.0, 2.0, 3e38])


@given(st.lists(positive, min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_lamp_against_its_definition(scores: list[float]) -> None:
    exact = torch.tensor(scores, dtype=torch.float32).double()
    lamp = lamp_scores(exact.float())
    assert lamp.dtype == torch.float64
    torch.testing.assert_close(
        lamp, torch.tensor(lamp_by_definition(exact.tolist()), dtype=torch.float64), rtol=1e-9, atol=1e-300
    )
    if exact.max() > 0:
        assert lamp.max() == 1
        assert int((lamp > 0.5).sum()) == 1


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_lamp_does_not_depend_on_the_scale_of_a_tensor(scale: float) -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(lamp_scores(scores * scale), lamp_scores(scores), rtol=1e-12, atol=0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30, unique=True), st.randoms())
@settings(deadline=None)
def test_lamp_moves_with_its_weights(scores: list[float], random: object) -> None:
    order = list(range(len(scores)))
    random.shuffle(order)  # type: ignore[attr-defined]
    values = torch.tensor(scores, dtype=torch.float64)
    assert torch.equal(lamp_scores(values[order]), lamp_scores(values)[order])


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    seed=st.integers(0, 999),
    spare=st.integers(0, 5),
    earlier=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_lamp_empties_no_tensor_while_one_entry_each_may_stay(
    sizes: list[int], seed: int, spare: int, earlier: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scales = [10.0 ** (5 * i) for i in range(len(sizes))]  # globally, the first layers would die at once
    scores = {
        f"l{i}": torch.rand(n, generator=generator) * s + s
        for i, (n, s) in enumerate(zip(sizes, scales, strict=True))
    }
    already = {}
    if earlier:
        already = {name: torch.rand(t.numel(), generator=generator) < 0.5 for name, t in scores.items()}
        for mask in already.values():
            mask[int(torch.randint(len(mask), (), generator=generator))] = True
    alive = sum(int(mask.sum()) for mask in already.values()) if earlier else sum(sizes)
    keep = min(alive, len(sizes) + spare)
    masks = allocate(scores, 1 - keep / sum(sizes), "lamp", already=already)
    assert masks.total - masks.pruned == keep
    assert all(bool(mask.any()) for mask in masks.values())


@given(shapes=shapes, amount=amounts, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_lamp_cuts_the_lowest_by_definition(shapes: list[tuple[int, ...]], amount: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {f"l{i}": torch.rand(shape, generator=generator) * 10**i for i, shape in enumerate(shapes)}
    kept, cut = [0.0], [0.0]
    for name, mask in allocate(scores, amount, "lamp", allow_empty=True).items():
        lamp = lamp_by_definition(scores[name].double().flatten().tolist())
        for score, keep in zip(lamp, mask.flatten().tolist(), strict=True):
            (kept if keep else cut).append(score)
    assert max(cut) <= min(kept[1:], default=1.0) * (1 + 1e-9)


# --- nothing empty -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", TOGETHER)
@given(
    shapes=shapes,
    amount=amounts,
    seed=st.integers(0, 99),
    levels=st.integers(1, 40),
    earlier=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_every_tensor_keeps_its_highest_and_exactly_k_go(
    scope: str, shapes: list[tuple[int, ...]], amount: float, seed: int, levels: int, earlier: bool
) -> None:
    scores = tied_scores(shapes, torch.float32, seed, levels)
    for place, name in enumerate(scores):
        scores[name] *= 100**place  # so that the first tensors are the first to go
    already = allocate(scores, amount / 2, scope, allow_empty=True) if earlier else Masks({})
    alive = {name: already.get(name, torch.ones_like(scores[name], dtype=torch.bool)) for name in scores}
    lively = [name for name, mask in alive.items() if mask.any()]
    k = round(amount * total(scores))
    if total(scores) - k < len(lively):
        with pytest.raises(
            InputError, match=r"leaves fewer weights \(\d+\) than tensors \(\d+\): choose .*allow_empty"
        ):
            allocate(scores, amount, scope, already)
        return
    masks = allocate(scores, amount, scope, already)
    moved = redistributed(masks, scores, amount, scope, already)
    plain = allocate(scores, amount, scope, already, allow_empty=True)
    assert masks.pruned == k
    for name in lively:
        kept = scores[name][masks[name]]
        assert len(kept)
        assert kept.max() == scores[name][alive[name]].max()
        assert not bool((masks[name] & ~alive[name]).any())
    difference = {name: int(masks[name].sum() - plain[name].sum()) for name in masks}
    assert moved == {name: count for name, count in difference.items() if count}
    assert sum(moved.values()) == 0
    if all(bool(plain[name].any()) for name in lively):
        assert not moved
        assert all(torch.equal(masks[name], plain[name]) for name in masks)


def test_the_next_lowest_elsewhere_pays_for_a_tensor_that_is_spared() -> None:
    scores = {"small": torch.tensor([1.0, 2.0]), "large": torch.tensor([9.0, 7.0, 8.0])}
    masks = allocate(scores, 0.6, "global")
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "small": [False, True],
        "large": [True, False, False],
    }
    assert redistributed(masks, scores, 0.6, "global", {}) == {"small": 1, "large": -1}
    plain = allocate(scores, 0.6, "global", allow_empty=True)
    assert {name: mask.tolist() for name, mask in plain.items()} == {
        "small": [False, False],
        "large": [True, False, True],
    }


def test_erk_leaves_one_entry_where_its_density_says_none() -> None:
    scores = {"thin": torch.rand(2, 2), "wide": torch.rand(100, 100)}
    masks = allocate(scores, 1 - 12 / 10_004, "erk")
    assert int(masks["thin"].sum()) == 1
    assert masks.total - masks.pruned == 12
    assert redistributed(masks, scores, 1 - 12 / 10_004, "erk", {}) == {"thin": 1, "wide": -1}


def test_local_takes_its_share_of_every_tensor_even_where_that_is_all() -> None:
    scores = {"a": torch.rand(2), "b": torch.rand(100)}
    masks = allocate(scores, 0.9, "local")
    assert [int(mask.sum()) for mask in masks.values()] == [0, 10]
    assert redistributed(masks, scores, 0.9, "local", {}) == {}


# --- earlier masks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", EVERY)
@given(shapes=shapes, first=amounts, second=amounts, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_earlier_cuts_stay_and_count(
    scope: str, shapes: list[tuple[int, ...]], first: float, second: float, seed: int
) -> None:
    first, second = sorted([first, second])
    earlier = allocate(tied_scores(shapes, torch.float32, seed, 9), first, scope, allow_empty=True)
    scores = tied_scores(shapes, torch.float32, seed + 1, 9)  # others, by which the cut would be another one
    later = allocate(scores, second, scope, already=earlier, allow_empty=True)
    assert all(not bool((later[name] & ~earlier[name]).any()) for name in later)
    if scope == "local":
        assert all(m.numel() - m.sum() == round(second * m.numel()) for m in later.values())
    else:
        assert later.pruned == round(second * total(scores))


@pytest.mark.parametrize("scope", TOGETHER)
@pytest.mark.parametrize("earlier_scope", EVERY)
def test_any_scope_follows_any_other(scope: str, earlier_scope: str) -> None:
    scores = {"a": torch.rand(40, 30) * 9, "b": torch.rand(20, 7), "c": torch.rand(9)}
    earlier = allocate(scores, 0.6, earlier_scope)
    masks = allocate(scores, 0.7, scope, already=earlier)
    assert masks.pruned == round(0.7 * total(scores))
    assert all(not bool((masks[name] & ~earlier[name]).any()) for name in masks)


@pytest.mark.parametrize("scope", TOGETHER)
def test_less_than_is_cut_already_is_refused(scope: str) -> None:
    scores = {"a": torch.rand(10), "b": torch.rand(10)}
    with pytest.raises(InputError, match=r"less than the 0\.5000 that is cut already"):
        allocate(scores, 0.4, scope, already=allocate(scores, 0.5, scope))


def test_local_refuses_a_tensor_that_lost_more() -> None:
    scores = {"a": torch.rand(10), "b": torch.rand(10)}
    with pytest.raises(InputError, match=r"a has lost 0\.8000 already.*local.*0\.5"):
        allocate(scores, 0.5, "local", already={"a": torch.arange(10) > 7})


def test_earlier_masks_of_others_are_left_out() -> None:
    masks = allocate({"a": torch.arange(4.0)}, 0.5, "global", already={"z": torch.zeros(9, dtype=torch.bool)})
    assert masks["a"].tolist() == [False, False, True, True]
    assert list(masks) == ["a"]


def test_lamp_measures_what_is_left_only() -> None:
    scores = {"a": torch.tensor([5.0, 4.0, 3.0]), "b": torch.tensor([1.0, 1.1, 1.2])}
    already = {"a": torch.tensor([False, True, True])}
    masks = allocate(scores, 4 / 6, "lamp", already=already)
    assert masks["a"].tolist() == [False, True, False]  # 4 is the largest left, and scores 1
    assert masks["b"].tolist() == [False, False, True]


# --- nonsense ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "amount", [-0.1, 1.7, math.nan, math.inf, "half", True, False, None, 1 + 0j, [0.5], 10**400]
)
@pytest.mark.parametrize("scope", EVERY)
def test_amounts_that_make_no_sense_are_refused(scope: str, amount: object) -> None:
    with pytest.raises(InputError, match=r"^The amount .* is not a number between 0 and 1: .*\.$"):
        allocate({"a": torch.rand(4)}, amount, scope)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "amount", [np.float32(0.5), np.float64(0.5), np.float16(0.5), Fraction(1, 2), 0, 1, np.int64(1)]
)
def test_numbers_of_any_kind_are_amounts(amount: float) -> None:
    checked = check_amount(amount)
    assert type(checked) is float
    assert checked == amount
    assert allocate({"a": torch.rand(4)}, amount, "local").pruned == round(float(amount) * 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("scope", EVERY)
def test_scores_that_cannot_be_ranked_are_refused(scope: str, bad: float) -> None:
    with pytest.raises(InputError, match="The scores of b hold NaN or infinity"):
        allocate({"a": torch.rand(4), "b": torch.tensor([1.0, bad])}, 0.5, scope)


@pytest.mark.parametrize("scope", EVERY)
def test_scores_may_be_trained(scope: str) -> None:
    assert allocate({"a": torch.rand(4, requires_grad=True)}, 0.5, scope).pruned == 2


def test_lamp_refuses_negative_scores() -> None:
    with pytest.raises(InputError, match=r"lamp.*negative"):
        allocate({"a": torch.tensor([-3.0, 1.0])}, 0.5, "lamp")


@pytest.mark.parametrize("name", ["gobal", "", None, 3, ["global"]])
def test_unknown_scopes_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="There is no scope named"):
        allocate({"a": torch.rand(4)}, 0.5, name)


def test_earlier_masks_of_another_model_are_refused() -> None:
    with pytest.raises(InputError, match="mask of a has another shape"):
        allocate({"a": torch.rand(4)}, 0.5, "global", already={"a": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(InputError, match="boolean"):
        allocate({"a": torch.rand(4)}, 0.5, "global", already={"a": torch.ones(4)})


@pytest.mark.parametrize("scope", EVERY)
def test_no_scores_give_no_masks(scope: str) -> None:
    assert allocate({}, 0.5, scope) == Masks({})
