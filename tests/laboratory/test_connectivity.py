"""The straight line between two models: against arithmetic by hand, explicit statistics, and what must hold on it."""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from toy_training import BATCH, COUNT, Net, copied, fresh, half_cut, same, toy
from vega import drawn, marks, texts

import secateur
from secateur import connectivity
from secateur.connectivity import Between, barrier, estimate, is_stable, path, told
from secateur.core.errors import InputError, ModelError
from secateur.data import Batches, Dataset, Split
from secateur.report import charts
from secateur.training import evaluate, train

DATA = toy()
FAST: dict[str, Any] = {"points": 5, "batch_size": BATCH, "progress": False}


class Deep(nn.Module):
    """Two normalisations, the second of which sees what the first has made; dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 5, 3, stride=2)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(5, momentum=None)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.drop(functional.relu(self.first(self.one(images))))
        return self.head(functional.relu(self.second(self.two(maps))).mean((2, 3)))


class Flat(nn.Module):
    """Softmax regression, whose loss is convex in its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def made(kind: type[nn.Module], seed: int, epochs: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    model = kind()
    train(model, DATA, epochs=epochs, batch_size=BATCH, lr=0.05, seed=seed)
    return model


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    """Two trained networks; tests must not change them."""
    return made(Deep, 1), made(Deep, 2)


def by_hand(a: nn.Module, b: nn.Module, alpha: float) -> dict[str, Tensor]:
    """(1 − α) a + α b in float64; integers are those of a."""
    others = b.state_dict()
    return {
        name: (1 - alpha) * value.double() + alpha * others[name].double()
        if value.is_floating_point()
        else value
        for name, value in a.state_dict().items()
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 0.7, 1.0])
def test_interpolation_is_what_the_formula_says(pair, alpha, dtype):
    a, b = (copy.deepcopy(model).to(dtype) for model in pair)
    for name, value in Between(a, b).at(alpha).state_dict().items():
        expected = by_hand(a, b, alpha)[name]
        if value.is_floating_point():
            scale = float(a.state_dict()[name].abs().max() + b.state_dict()[name].abs().max())
            assert value.dtype == dtype
            torch.testing.assert_close(
                value.double(), expected, rtol=0, atol=2 * scale * torch.finfo(dtype).eps
            )
        else:
            assert torch.equal(value, expected)


@given(st.lists(st.floats(0, 1), max_size=4), st.sampled_from([torch.float32, torch.float16]))
def test_both_ends_are_exact_wherever_the_line_was_before(alphas, dtype):
    a, b = fresh().to(dtype), Net().to(dtype)
    line = Between(a, b)
    for alpha in alphas:
        line.at(alpha)
    floats = [name for name, value in a.state_dict().items() if value.is_floating_point()]
    for alpha, end in ((0.0, a), (1.0, b)):
        state, found = end.state_dict(), line.at(alpha).state_dict()
        assert all(torch.equal(found[name], state[name]) for name in floats)


@pytest.mark.parametrize("statistics", connectivity.STATISTICS)
def test_models_stay_and_there_is_one_copy(pair, statistics, monkeypatch):
    a, b = pair
    a.eval()
    b.drop.train()
    before = [(copied(model), [module.training for module in model.modules()]) for model in pair]
    copies, real = [], copy.deepcopy
    monkeypatch.setattr(copy, "deepcopy", lambda *one: copies.append(one[0]) or real(*one))
    path(a, b, DATA, statistics=statistics, **FAST)
    assert [each for each in copies if isinstance(each, Deep)] == [a]
    for model, (state, modes) in zip(pair, before, strict=True):
        assert same(model.state_dict(), state)
        assert [module.training for module in model.modules()] == modes
    line = Between(a, b)
    assert line.at(0.2) is line.at(0.9)


def explicit(model: Deep, batches: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and unbiased variance of what each normalisation meets, over all batches put together, in float64."""
    model = copy.deepcopy(model).double()
    met: dict[str, list[Tensor]] = {"first": [], "second": []}
    for images in batches:
        maps = model.one(images.double())
        met["first"].append(maps)
        mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), correction=0, keepdim=True)
        scaled = (maps - mean) / (variance + model.first.eps).sqrt()
        scaled = scaled * model.first.weight[:, None, None] + model.first.bias[:, None, None]
        met["second"].append(model.two(scaled.relu()))
    found = {}
    for name, parts in met.items():
        rows = torch.cat(parts).movedim(1, -1).flatten(0, -2)
        found[name] = (rows.mean(0), rows.var(0))
    return found


@pytest.mark.parametrize(
    ("batches", "augment"), [(1, "none"), (2, "none"), (3, "none"), (99, "none"), (2, "flip")]
)
def test_statistics_are_those_of_all_batches_together(pair, batches, augment):
    model = copy.deepcopy(pair[0])
    drawn_batches = Batches(DATA, "train", BATCH, shuffle=True, seed=4, augment=augment)
    images = [batch.inputs for batch in islice(drawn_batches, batches)]
    assert sum(map(len, images)) == min(COUNT, BATCH * batches)  # the last, short batch included
    estimate(model, DATA, batches, BATCH, seed=4, augment=augment)
    for name, (mean, variance) in explicit(pair[0], images).items():
        norm = getattr(model, name)
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-5, atol=1e-6)


def test_an_estimate_changes_statistics_and_nothing_else(pair):
    model = copy.deepcopy(pair[0])
    model.first.running_mean.fill_(float("nan"))
    estimate(model, DATA, 2, BATCH)
    again = copy.deepcopy(pair[0])
    estimate(again, DATA, 2, BATCH)
    assert same(model.state_dict(), again.state_dict())  # what was there before counts for nothing
    assert same(dict(model.named_parameters()), dict(pair[0].named_parameters()))
    assert (model.first.momentum, model.second.momentum) == (0.1, None)
    assert not any(module._forward_hooks for module in model.modules())
    other = copy.deepcopy(pair[0])
    estimate(other, DATA, 2, BATCH, seed=1)
    assert not torch.equal(other.first.running_mean, model.first.running_mean)


def test_a_single_sample_left_over_is_left_out():
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(64), nn.Linear(64, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.norm(images.flatten(1)))

    model, data = Wide(), toy(BATCH + 1)
    estimate(model, data, 9, BATCH)
    (images, *_), *_ = Batches(data, "train", BATCH, shuffle=True, augment="none")
    torch.testing.assert_close(model.norm.running_var, images.flatten(1).var(0), rtol=1e-4, atol=1e-5)


def test_without_normalisations_no_pass_is_taken(monkeypatch):
    model = Flat()
    monkeypatch.setattr(model, "forward", lambda images: pytest.fail("a pass for nothing"))
    estimate(model, DATA)
    assert told(model, DATA, "estimated", 50, BATCH) == "no batch normalisation"
    assert told(Deep(), DATA, "estimated", 50, BATCH) == f"estimated on 3 training batches of {BATCH}"
    assert told(Deep(), DATA, "interpolated", 50, BATCH) == "interpolated"


@pytest.mark.parametrize("statistics", connectivity.STATISTICS)
def test_a_model_and_itself_have_no_barrier_at_all(pair, statistics):
    rows = path(pair[0], pair[0], DATA, statistics=statistics, **FAST)
    assert set(barrier(rows).values()) == {0.0}
    assert len({tuple(row.values())[1:] for row in rows}) == 1


def test_hidden_units_in_another_order_are_beyond_a_barrier():
    a = made(Net, 1, epochs=20)
    b, order = copy.deepcopy(a), torch.arange(12).flip(0)
    with torch.no_grad():
        b.hidden.weight.copy_(a.hidden.weight[order])
        b.hidden.bias.copy_(a.hidden.bias[order])
        b.head.weight.copy_(a.head.weight[:, order])
    rows = path(a, b, DATA, statistics="interpolated", **FAST)
    assert rows[0]["test_loss"] == pytest.approx(rows[-1]["test_loss"], rel=1e-5)  # the same function
    found = barrier(rows)
    assert min(found["train_loss"], found["test_loss"]) > 0.1
    assert not is_stable(found)


def test_a_convex_loss_has_no_barrier():
    rows = path(made(Flat, 1), made(Flat, 2), DATA, **FAST)
    for split in ("train", "test"):
        ends = [rows[at][f"{split}_loss"] for at in (0, -1)]
        for row in rows:
            chord = (1 - row["alpha"]) * ends[0] + row["alpha"] * ends[1]
            assert row[f"{split}_loss"] <= chord + 1e-6
        assert barrier(rows)[f"{split}_loss"] == pytest.approx(abs(ends[0] - ends[1]) / 2, abs=1e-6)


@pytest.mark.parametrize("samples", [None, 12])
def test_interpolated_ends_are_the_models_own_numbers_bit_for_bit(pair, samples):
    rows = path(*pair, DATA, statistics="interpolated", samples=samples, **FAST)
    measured = DATA if samples is None else DATA.subset(train=samples, test=samples)
    for row, model in ((rows[0], pair[0]), (rows[-1], pair[1])):
        for split in ("train", "test"):
            own = evaluate(model, measured, split=split)
            assert (row[f"{split}_error"], row[f"{split}_loss"]) == (1 - own["top1"], own["loss"])


def test_between_the_ends_it_is_the_evaluation_of_a_model_made_by_hand(pair):
    rows = path(*pair, DATA, statistics="interpolated", **FAST)
    assert [row["alpha"] for row in rows] == [0.0, 0.25, 0.5, 0.75, 1.0]
    middle = copy.deepcopy(pair[0])
    middle.load_state_dict(by_hand(*pair, 0.5))
    assert rows[2]["test_loss"] == pytest.approx(evaluate(middle, DATA)["loss"], rel=1e-5)


def test_estimated_and_interpolated_statistics_differ_and_each_is_the_same_every_time(pair):
    found = {name: path(*pair, DATA, statistics=name, **FAST) for name in connectivity.STATISTICS}
    assert found["estimated"] != found["interpolated"]
    for name, rows in found.items():
        torch.manual_seed(99)
        assert path(*pair, DATA, statistics=name, **FAST) == rows


class Bag(nn.Module):
    """A bag of words with a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm, self.head = nn.Embedding(9, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.norm(self.words(input_ids).mean(1)))


def test_text_is_measured_like_images():
    stream = torch.Generator().manual_seed(0)
    halves = []
    for size in (20, 12):
        tokens = torch.randint(0, 9, (size, 5), generator=stream)
        halves.append(Split({"input_ids": tokens}, (tokens[:, 0] > 4).long()))
    data = Dataset("words", *halves, ("low", "high"), None, None)
    a, b = Bag(), Bag()
    rows = path(a, b, data, points=3, batch_size=20, progress=False)
    middle = copy.deepcopy(a)
    middle.load_state_dict(by_hand(a, b, 0.5))
    met = middle.words(data.train.inputs["input_ids"]).mean(1).detach()
    middle.norm.running_mean.copy_(met.mean(0))
    middle.norm.running_var.copy_(met.var(0))
    assert rows[1]["test_loss"] == pytest.approx(evaluate(middle, data)["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.1, 0.1, 0.1], 0.0),
        ([0.1, 0.5, 0.3], 0.3),
        ([0.2, 0.1, 0.4], 0.1),  # an end is part of the path
        ([0.0, 0.9, 0.0], 0.9),
    ],
)
def test_a_barrier_is_the_highest_minus_the_mean_of_the_ends(errors, expected):
    rows = [{"alpha": at / 2, "test_error": error} for at, error in enumerate(errors)]
    assert barrier(rows) == {"test_error": pytest.approx(expected)}
    assert barrier(rows[::-1]) == barrier(rows)


def test_stable_is_what_is_below_the_margin_on_both_splits():
    assert is_stable({"train_error": 0.0, "train_loss": 9.0, "test_error": 0.019, "test_loss": 9.0})
    assert not is_stable({"train_error": 0.02, "test_error": 0.0})
    assert is_stable({"train_error": 0.02, "test_error": 0.0}, margin=0.03)


def test_what_both_cut_stays_zero_all_along(pair):
    a, b = (copy.deepcopy(model) for model in pair)
    masks = secateur.Masks(half_cut(a))
    line = Between(a, b, (masks, dict(masks)))
    for alpha in (0.0, 0.3, 1.0):
        weights = dict(line.at(alpha).named_parameters())
        assert all(bool((weights[name][~mask] == 0).all()) for name, mask in masks.items())
    one_sided = Between(a, b, (masks, {})).at(1.0)
    assert same(dict(one_sided.named_parameters()), dict(b.named_parameters()))


@pytest.mark.parametrize("change", ["values", "names", "shape"])
def test_different_masks_are_refused(pair, change):
    masks = half_cut(pair[0])
    others = {
        "values": {**masks, "two.weight": ~masks["two.weight"]},
        "names": {name: mask for name, mask in masks.items() if name != "two.weight"},
        "shape": {**masks, "two.weight": masks["two.weight"][:1]},
    }[change]
    with pytest.raises(InputError, match=r"different masks, of two\.weight for one"):
        path(*pair, DATA, masks=(masks, others), **FAST)


class Tied(Flat):
    def __init__(self) -> None:
        super().__init__()
        self.head.also = self.head.bias


class Untied(Flat):
    def __init__(self) -> None:
        super().__init__()
        self.head.also = nn.Parameter(torch.zeros(4))


Untied.__name__ = "Tied"


@pytest.mark.parametrize(
    ("other", "mentioned"),
    [
        (Net, r"the module \(whole\) is Deep in the first and Net in the second"),
        (Flat, "one architecture"),
        (
            lambda: Deep().double(),
            r"tensor one\.weight is 3×1×3×3 of float32 in the first and 3×1×3×3 of float64",
        ),
    ],
)
def test_other_architectures_are_refused(pair, other, mentioned):
    with pytest.raises(ModelError, match=mentioned):
        path(pair[0], other(), DATA, **FAST)


def test_other_widths_and_other_ties_are_refused():
    wide = Flat()
    wide.head = nn.Linear(64, 5)
    with pytest.raises(ModelError, match=r"tensor head\.weight is 4×64 of float32 in the first and 5×64"):
        Between(Flat(), wide)
    with pytest.raises(ModelError, match="tied ones counted once"):
        Between(Tied(), Untied())


@pytest.mark.parametrize(
    ("settings", "mentioned"),
    [
        ({"points": 2}, "points must be at least 3, not 2"),
        ({"statistics": "estimatd"}, "did you mean estimated"),
        ({"batches": 0}, "number of batches"),
        ({"samples": 0}, "subset"),
    ],
)
def test_settings_that_make_no_sense(pair, settings, mentioned):
    with pytest.raises(InputError, match=mentioned):
        path(*pair, DATA, **{**FAST, **settings})


def test_rows_that_are_no_whole_path():
    for rows in ([], [{"alpha": 0.0, "test_error": 0.1}], [{"alpha": 0.5, "test_error": 0.1}] * 3):
        with pytest.raises(InputError, match="no path from α = 0 to α = 1"):
            barrier(rows)


def test_a_loss_that_is_not_finite_is_named():
    a, b = Flat(), Flat()
    with torch.no_grad():
        b.head.weight.fill_(torch.inf)
    with pytest.raises(ModelError, match=r"infinite or NaN at α = "):
        path(a, b, DATA, **FAST)


ROWS = [
    {"series": series, "k": k, "barrier": 0.3 / (1 + k) + shift, "pairs": 2}
    for series in ("train", "test")
    for k in (0, 10, 100)
    for shift in (0.0, 0.01)
]


def test_the_charts_draw_every_row():
    rows = [
        {"alpha": at / 4, "train_error": 0.1 + at % 4 / 9, "test_error": 0.2 + at % 4 / 9} for at in range(5)
    ]
    along = drawn(charts.error_along_path(rows))
    assert (marks(along)["line mark"], marks(along)["point"]) == (2, 10)
    over = drawn(charts.barrier_over_k(ROWS))
    counted = marks(over)
    assert (counted["line mark"], counted["point"], counted["rule mark"]) == (2, 6, 1)
    assert "stable below 2 %" in texts(over)
    assert (
        charts.barrier_over_k(ROWS)
        .to_dict()["description"]
        .endswith("train from 30.50 % at 0 to 0.80 % at 100; test from 30.50 % at 0 to 0.80 % at 100.")
    )
    for chart in (charts.error_along_path, charts.barrier_over_k):
        with pytest.raises(InputError, match="nothing to draw"):
            chart([])
