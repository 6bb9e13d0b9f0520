"""Criteria: what every registered one does, and what the single ones promise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.criteria import CRITERIA, QUANTITIES, criterion, measured, quantity, score, sources
from secateur.pruning.allocate_weights import SCOPES, allocate
from secateur.sparsity.granularity import GRANULARITIES, kind_of, parse

EVERY = sorted(name for name in CRITERIA if "weight" in CRITERIA[name].granularities)
"""Those that score single weights; the others are tried in test_importance.py."""
MEASURED = [name for name in EVERY if "data" in sources(name)]
"""Those that look at data."""
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture
def spare_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test register criteria and quantities that are gone after it."""
    for registry in (CRITERIA, QUANTITIES):
        monkeypatch.setattr(registry, "_items", dict(registry))


def some_weights(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "conv.weight": (4, 8, 3, 3),
        "fc.weight": (5, 12),
        "fc.bias": (5,),
        "scale": (),
        "none": (0, 4),
        "unused": (3,),
    }
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


class Small(nn.Module):
    """A network that runs on `some_weights`, to measure on."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 4, 3, bias=False)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(12, 5)
        self.scale = nn.Parameter(torch.empty(()))
        self.none = nn.Parameter(torch.empty(0, 4))
        self.unused = nn.Parameter(torch.empty(3))
        self.to(dtype).load_state_dict(some_weights(dtype))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.fc(self.drop(self.conv(images).tanh().flatten(1)))


def some_batches(dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 8, 3, 5, generator=draw).to(dtype), torch.randint(5, (size,), generator=draw))
        for size in (6, 1, 3)
    ]


def some_measured(name: str, model: nn.Module, **options: Any) -> dict[str, dict[str, Tensor]]:
    """What the criterion `name` needs to score the parameters of a `Small`."""
    parameters = dict(model.named_parameters())
    batches = some_batches(parameters["scale"].dtype)
    return measured(name, model, parameters, batches, example_inputs=batches[0][0], **options)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_finite_score_for_each_weight(name: str, dtype: torch.dtype) -> None:
    weights = some_weights(dtype)
    quantities = some_measured(name, Small(dtype))
    before = {key: weight.clone() for key, weight in weights.items()}
    choices: list[dict[str, Any]] = [
        {"granularity": kind}
        for kind in CRITERIA[name].granularities
        if not kind_of(kind).removes or CRITERIA[name].per == "weight"
    ]
    for options in ({}, CRITERIA[name].options, *choices):
        scores = score(name, weights, measured=quantities, **options)
        assert list(scores) == list(weights)
        for key, weight in weights.items():
            assert scores[key].shape == weight.shape
            assert scores[key].isfinite().all()
            assert not scores[key].requires_grad
            assert torch.equal(weight, before[key])


ACROSS = {"hessian_gradient", "hessian_diagonal"}
"""Quantities of a Hessian of all tensors together."""


@pytest.mark.parametrize("name", [name for name in EVERY if not ACROSS & set(CRITERIA[name].needs)])
def test_the_same_seed_gives_the_same_scores_on_any_subset(name: str) -> None:
    model = Small()
    weights = dict(model.named_parameters())
    everything = score(name, weights, seed=3, measured=some_measured(name, model))
    torch.manual_seed(99)
    for key, weight in reversed(weights.items()):
        alone = {key: weight}
        quantities = measured(name, model, alone, some_batches(), example_inputs=some_batches()[0][0])
        assert torch.equal(score(name, alone, seed=3, measured=quantities)[key], everything[key])


@pytest.mark.parametrize("name", EVERY)
def test_torchs_own_random_numbers_are_left_alone(name: str) -> None:
    model = Small()
    before = torch.get_rng_state()
    score(name, some_weights(), measured=some_measured(name, model))
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
    model = Small()
    scores = score(name, dict(model.named_parameters()), measured=some_measured(name, model))
    assert not any(each.requires_grad for each in scores.values())


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
        (allocate(l1, amount, scope, allow_empty=True), allocate(l2, amount, scope, allow_empty=True)),
        (parse("2:4").masks(l1), parse("2:4").masks(l2)),
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
    for kind in {*GRANULARITIES} - CRITERIA[name].granularities:
        with pytest.raises(InputError, match=f"The criterion {name} scores .*, not {kind}: choose another"):
            score(name, some_weights(), granularity=kind)
    with pytest.raises(InputError, match="There is no granularity 'column'"):
        score(name, some_weights(), granularity="column")


def test_unknown_criteria_are_refused() -> None:
    with pytest.raises(InputError, match=r"There is no criterion named 'magnitud': did you mean magnitude\?"):
        score("magnitud", some_weights())


@pytest.mark.usefixtures("spare_registry")
def test_a_criterion_of_ones_own_is_its_formula() -> None:
    @criterion("smallest_last", elements={"weights"}, paper="ours")
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
def test_units_are_scored_by_their_own_formula_where_there_is_one() -> None:
    register = criterion(
        "two_faced",
        elements={"weights", "channels"},
        paper="ours",
        unit=lambda weight: weight + 1,
    )
    register(lambda weight: weight)
    weights = {"w": torch.tensor([1.0])}
    assert score("two_faced", weights)["w"].tolist() == [1]
    assert score("two_faced", weights, granularity="channel")["w"].tolist() == [2]
    with pytest.raises(
        InputError, match="The criterion two_faced scores block, channel, n:m, weight, not head"
    ):
        score("two_faced", weights, granularity="head")


@pytest.mark.usefixtures("spare_registry")
def test_a_quantity_of_ones_own_is_measured_and_handed_to_the_formula() -> None:
    def batches(model: nn.Module, tensors: Any, data: Any) -> dict[str, Tensor]:
        return {name: torch.full_like(tensor, len(data)) for name, tensor in tensors.items()}

    quantity("batches", "the number of batches")(batches)
    criterion("patient", elements={"weights"}, paper="ours")(lambda weight, batches: weight * batches)
    quantities = some_measured("patient", Small())
    assert torch.equal(
        score("patient", some_weights(), measured=quantities)["fc.bias"], 3 * some_weights()["fc.bias"]
    )


@pytest.mark.usefixtures("spare_registry")
def test_a_formula_that_needs_the_unknown_is_refused() -> None:
    criterion("curious", elements={"weights"}, paper="none")(lambda hessian: hessian)
    with pytest.raises(InputError, match="There is no quantity for a criterion named 'hessian'"):
        score("curious", some_weights())


@pytest.mark.usefixtures("spare_registry")
def test_a_formula_that_misses_weights_is_refused() -> None:
    criterion("summary", elements={"weights"}, paper="none")(lambda weight: weight.sum(0))
    with pytest.raises(InputError, match=r"summary gave w scores of shape \[4\].*\[3, 4\]"):
        score("summary", {"w": torch.rand(3, 4)})


# --- what is measured on data ------------------------------------------------------------------------------


def mean_loss(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Cross-entropy written out, averaged over all samples at once."""
    images, labels = map(torch.cat, zip(*batches, strict=True))
    with torch.no_grad():
        logits = model(images)
    right = logits[range(len(labels)), labels]
    return float((logits.exp().sum(1).log() - right).mean())


def test_taylor_against_finite_differences() -> None:
    model, step = Small(torch.float64), 1e-5
    batches = some_batches(torch.float64)
    weights = dict(model.named_parameters())
    scores = score("taylor", weights, measured=measured("taylor", model, weights, batches))
    model.eval()
    for name, weight in weights.items():
        expected, flat = [], weight.detach().view(-1)
        for position, value in enumerate(flat.tolist()):
            losses = []
            for moved in (value + step, value - step):
                flat[position] = moved
                losses.append(mean_loss(model, batches))
            flat[position] = value
            expected.append(abs(value * (losses[0] - losses[1]) / (2 * step)))
        found = scores[name].flatten().tolist()
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert any(found) == (name not in ("none", "unused"))


def test_taylor_is_the_change_of_the_loss_to_first_order() -> None:
    model = Small(torch.float64)
    batches = some_batches(torch.float64)
    weights = {"fc.bias": model.fc.bias}
    scores = score("taylor", weights, measured=measured("taylor", model, weights, batches))["fc.bias"]
    model.eval()
    before = mean_loss(model, batches)
    for position, value in enumerate(model.fc.bias.tolist()):
        with torch.no_grad():
            model.fc.bias[position] = value * (1 - 1e-6)  # a millionth of the way to zero
        assert abs(mean_loss(model, batches) - before) * 1e6 == pytest.approx(
            float(scores[position]), rel=1e-3
        )
        with torch.no_grad():
            model.fc.bias[position] = value


class Keywords(Small):
    """Takes keywords and gives logits, or its own loss where it gets labels too."""

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Any:
        logits = super().forward(images)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)


@pytest.mark.parametrize("name", MEASURED)
def test_batches_of_keywords_and_losses_of_the_models_own_measure_the_same(name: str) -> None:
    plain = {"temperature": 1.0} if "temperature" in CRITERIA[name].options else {}
    expected = some_measured(name, Small(), **plain)
    model = Keywords()
    weights = dict(model.named_parameters())
    for batches in (
        some_batches(),
        [({"images": images}, labels) for images, labels in some_batches()],
        [({"images": images, "labels": labels}, None) for images, labels in some_batches()],
    ):
        found = measured(name, model, weights, batches, **plain)
        for need in expected:
            assert all(torch.equal(found[need][key], expected[need][key]) for key in weights)


@pytest.mark.parametrize("name", MEASURED)
def test_how_the_samples_are_batched_does_not_matter(name: str) -> None:
    model = Small(torch.float64)
    expected = some_measured(name, model)
    whole: Any = tuple(map(torch.cat, zip(*some_batches(torch.float64), strict=True)))
    torch.testing.assert_close(measured(name, model, dict(model.named_parameters()), [whole]), expected)


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("grad", [True, False])
def test_frozen_parameters_are_scored_and_left_frozen(name: str, grad: bool) -> None:
    expected = some_measured(name, Small())
    model = Small().requires_grad_(False)
    model.fc.bias.requires_grad_(True)
    with torch.set_grad_enabled(grad):
        found = some_measured(name, model)
        assert torch.is_grad_enabled() is grad
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert [key for key, p in model.named_parameters() if p.requires_grad] == ["fc.bias"]


class Broken(Exception):
    """What goes wrong while batches are read."""


def breaking() -> Iterator[tuple[Tensor, Tensor]]:
    yield some_batches()[0]
    raise Broken


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("batches", [some_batches, breaking])
def test_measuring_leaves_the_model_as_it_was(name: str, batches: Any) -> None:
    model = Small()
    model.conv.requires_grad_(False)
    model.fc.eval()
    model.fc.weight.grad = given = torch.ones(5, 12)
    weights = dict(model.named_parameters())
    if batches is breaking:
        with pytest.raises(Broken):
            measured(name, model, weights, batches())
    else:
        measured(name, model, weights, batches())
    assert {key for key, p in weights.items() if p.grad is not None} == {"fc.weight"}
    assert model.fc.weight.grad is given
    assert (given == 1).all()
    assert {key for key, p in weights.items() if not p.requires_grad} == {"conv.weight"}
    assert (model.training, model.conv.training, model.drop.training, model.fc.training) == (True,) * 3 + (
        False,
    )
    assert all(torch.equal(model.state_dict()[key], weight) for key, weight in some_weights().items())


@pytest.mark.parametrize("name", EVERY)
def test_data_is_asked_for_where_it_is_needed_and_only_there(name: str) -> None:
    model = Small()
    weights = dict(model.named_parameters())
    if name in MEASURED:
        with pytest.raises(
            InputError,
            match=rf"^The criterion {name} needs the [a-zA-Z' ]+ on some data: pass batches .* as data=\.$",
        ):
            measured(name, model, weights, None)
        with pytest.raises(InputError, match="The data holds no batch"):
            measured(name, model, weights, [])
    else:
        measured(name, model, weights, None, example_inputs=some_batches()[0][0])
    if "example_inputs" in sources(name):
        with pytest.raises(
            InputError, match=rf"^The criterion {name} needs example inputs, .*: pass them after"
        ):
            measured(name, model, weights, None)
    assert bool(sources(name)) == bool(some_measured(name, model))


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_every_criterion_says_its_moment_and_its_cost(name: str) -> None:
    entry = CRITERIA[name]
    assert entry.moment in ("before", "after", "any")
    assert (
        "pass" in entry.cost
        if entry.needs_data or "example_inputs" in sources(name)
        else "pass" not in entry.cost
    )
