"""Criteria: what every registered one does, and what the single ones promise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.allocate import SCOPES, allocate
from secateur.criteria import CRITERIA, criterion, score
from secateur.criteria import registry as criteria_registry
from secateur.errors import InputError
from secateur.granularity import keep_patterns, parse

EVERY = sorted(CRITERIA)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture
def spare_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test register criteria that are gone after it."""
    monkeypatch.setattr(criteria_registry.CRITERIA, "_items", dict(CRITERIA))


def some_weights(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (4, 8, 3, 3), "fc.weight": (5, 12), "fc.bias": (5,), "scale": (), "none": (0, 4)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_finite_score_for_each_weight(name: str, dtype: torch.dtype) -> None:
    weights = some_weights(dtype)
    before = {key: weight.clone() for key, weight in weights.items()}
    for options in ({}, CRITERIA[name].options):
        scores = score(name, weights, **options)
        assert list(scores) == list(weights)
        for key, weight in weights.items():
            assert scores[key].shape == weight.shape
            assert scores[key].isfinite().all()
            assert not scores[key].requires_grad
            assert torch.equal(weight, before[key])


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_gives_the_same_scores_on_any_subset(name: str) -> None:
    weights = some_weights()
    everything = score(name, weights, seed=3)
    torch.manual_seed(99)
    for key, weight in reversed(weights.items()):
        assert torch.equal(score(name, {key: weight}, seed=3)[key], everything[key])


@pytest.mark.parametrize("name", EVERY)
def test_torchs_own_random_numbers_are_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    score(name, some_weights())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", EVERY)
def test_described_for_the_listing(name: str) -> None:
    entry = CRITERIA[name]
    assert entry.name == name
    assert entry.summary.endswith(".")
    assert entry.paper
    assert entry.granularities


@pytest.mark.parametrize("name", EVERY)
def test_parameters_that_are_trained_can_be_scored(name: str) -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4))
    assert not score(name, {"w": weight})["w"].requires_grad


def test_random_scores_follow_seed_and_name() -> None:
    weights = {"a": torch.zeros(50), "b": torch.zeros(50)}
    one, other = score("random", weights, seed=0), score("random", weights, seed=1)
    assert not torch.equal(one["a"], one["b"])
    assert not torch.equal(one["a"], other["a"])
    assert torch.equal(one["a"], score("random", {"a": torch.ones(50)}, seed=0)["a"])


def test_random_scores_are_uniform() -> None:
    drawn = score("random", {"w": torch.empty(100_000)})["w"].double()
    assert 0 <= drawn.min() < drawn.max() < 1
    assert drawn.mean() == pytest.approx(1 / 2, abs=5 * math.sqrt(1 / 12 / 100_000))
    assert drawn.var() == pytest.approx(1 / 12, rel=0.02)
    assert drawn.unique().numel() == drawn.numel()


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_magnitude_against_its_definition(norm: str) -> None:
    for dtype in DTYPES:
        weight = some_weights(dtype)["fc.weight"]
        expected = [[abs(w) for w in row] for row in weight.double().tolist()]
        assert score("magnitude", {"w": weight}, norm=norm)["w"].double().tolist() == expected


extreme = st.sampled_from([0.0, -0.0, 1e-45, -1e-40, 1e-30, -1e-23, 1e-20, 1.0, -1.0, 1e20, -3e38])
tiny_and_huge = st.lists(
    extreme | st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4
)


@pytest.mark.parametrize("scope", sorted(SCOPES))
@given(
    rows=st.lists(tiny_and_huge, min_size=1, max_size=6),
    amount=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=60, deadline=None)
def test_both_norms_of_magnitude_give_the_same_masks(
    scope: str, rows: list[list[float]], amount: float, dtype: torch.dtype
) -> None:
    largest = torch.finfo(dtype).max
    values = torch.tensor(rows, dtype=torch.float64).clamp(-largest, largest).to(dtype)
    weights = {"a": values[:1], "b": values[1:]}
    l1, l2 = (score("magnitude", weights, norm=norm) for norm in ("l1", "l2"))
    for one, other in (
        (allocate(l1, amount, scope), allocate(l2, amount, scope)),
        (keep_patterns(l1, parse("2:4")), keep_patterns(l2, parse("2:4"))),
    ):
        assert all(torch.equal(one[name], other[name]) for name in weights)


def test_magnitude_does_not_tie_weights_whose_squares_vanish_or_overflow() -> None:
    for dtype, values in (
        (torch.float32, [3e-30, 2e-30, 1e-30]),
        (torch.float16, [60000.0, 50000.0, 40000.0]),
    ):
        weights = {"w": torch.tensor(values, dtype=dtype)}
        kept = allocate(score("magnitude", weights, norm="l2"), 2 / 3, "global")["w"]
        assert kept.tolist() == [True, False, False]


@pytest.mark.parametrize("norm", ["l3", "", None, 2, ["l1"]])
def test_unknown_norms_are_refused(norm: object) -> None:
    with pytest.raises(InputError, match=r"There is no norm '.*' for magnitude: choose l1 or l2\."):
        score("magnitude", some_weights(), norm=norm)


@pytest.mark.parametrize("name", EVERY)
def test_unknown_options_and_granularities_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"The criterion {name} has no option 'colour'"):
        score(name, some_weights(), colour="red")
    with pytest.raises(InputError, match=f"The criterion {name} scores .*, not layer"):
        score(name, some_weights(), granularity="layer")


def test_unknown_criteria_are_refused() -> None:
    with pytest.raises(InputError, match=r"There is no criterion named 'magnitud': did you mean magnitude\?"):
        score("magnitud", some_weights())


@pytest.mark.usefixtures("spare_registry")
def test_a_criterion_of_ones_own_is_its_formula() -> None:
    @criterion("smallest_last", granularities={"weight"}, paper="ours")
    def smallest_last(weight: Tensor, *, power: float = 1.0) -> Tensor:
        """Negative size."""
        return -(weight.abs() ** power)

    entry = CRITERIA["smallest_last"]
    assert (entry.needs, dict(entry.options), entry.summary) == (
        ("weight",),
        {"power": 1.0},
        "Negative size.",
    )
    assert score("smallest_last", {"w": torch.tensor([-3.0])}, power=2.0)["w"].tolist() == [-9.0]


@pytest.mark.usefixtures("spare_registry")
def test_a_formula_that_needs_the_unknown_is_refused() -> None:
    criterion("curious", granularities={"weight"}, paper="none")(lambda hessian: hessian)
    with pytest.raises(InputError, match="There is no quantity for a criterion named 'hessian'"):
        score("curious", some_weights())


@pytest.mark.usefixtures("spare_registry")
def test_a_formula_that_misses_weights_is_refused() -> None:
    criterion("summary", granularities={"weight"}, paper="none")(lambda weight: weight.sum(0))
    with pytest.raises(InputError, match=r"summary gave w scores of shape \[4\].*\[3, 4\]"):
        score("summary", {"w": torch.rand(3, 4)})
