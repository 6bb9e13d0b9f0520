"""Reconstruction of masked weights against optimal brain surgeon step by step, and against least squares row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur import prune
from secateur.compensation import obs
from secateur.core.errors import InputError
from secateur.pruning import weights
from secateur.sparsity.masks import Masks

SEEDS = st.integers(0, 10_000)


def problem(seed: int, rows: int, columns: int, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs that hang together, weights, and what stays of them; float64."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(samples, columns, generator=generator, dtype=torch.float64)
    mixed = mixed @ torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return mixed, weight, torch.rand(rows, columns, generator=generator) < 0.5


def surgeon(weight: Tensor, hessian: Tensor, kept: Tensor) -> Tensor:
    """One row, one weight at a time, the inverse of what is left computed anew each time."""
    weight = weight.clone()
    for q in range(len(weight)):
        if not kept[q]:
            inverse = torch.linalg.inv(hessian[q:, q:])
            weight[q:] -= weight[q] / inverse[0, 0] * inverse[:, 0]
            weight[q] = 0
    return weight


def least(inputs: Tensor, targets: Tensor, kept: Tensor) -> Tensor:
    """Squared error of the best weights of one row under its mask."""
    x = inputs[:, kept]
    return (x @ torch.linalg.lstsq(x, targets, driver="gelsd").solution - targets).square().sum()


def test_the_factor_holds_the_inverse_of_what_is_left_after_every_column() -> None:
    inputs, *_ = problem(0, 1, 7, 30)
    hessian = inputs.T @ inputs
    found = obs.Hessian.of(hessian[None], 0.01)
    root = found.root
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(7, dtype=torch.float64)
    assert found.damping == 0.01
    torch.testing.assert_close(found.matrix[0], damped)
    for q in range(7):
        inverse = torch.linalg.inv(damped[q:, q:])
        torch.testing.assert_close(root[0, q, q] * root[0, q, q:], inverse[0])


@given(
    seed=SEEDS,
    rows=st.integers(1, 4),
    columns=st.integers(1, 9),
    block=st.integers(1, 12),
    dense=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_a_sweep_is_the_surgeon_column_by_column(
    seed: int, rows: int, columns: int, block: int, dense: bool
) -> None:
    inputs, weight, kept = problem(seed, rows, columns, 3 * columns)
    kept |= dense
    hessian = inputs.T @ inputs + torch.eye(columns, dtype=torch.float64)
    found = obs.Hessian.of(hessian[None], 0.0)
    swept = obs.sweep(weight[None], found, obs.Given(kept[None], block), block)
    expected = torch.stack([surgeon(w, hessian, k) for w, k in zip(weight, kept, strict=True)])
    torch.testing.assert_close(swept.weight[0], expected)
    assert torch.equal(swept.kept[0], kept)
    assert not swept.weight[0][~kept].any()


@given(seed=SEEDS, columns=st.integers(2, 9))
@settings(deadline=None, max_examples=30)
def test_no_sweep_beats_least_squares_without_the_first_column_it_is_least_squares(
    seed: int, columns: int
) -> None:
    inputs, weight, kept = problem(seed, 3, columns, 4 * columns)
    kept[0] = torch.arange(columns) > 0  # whatever went, all columns but those before it can make up for it
    found = obs.Hessian.of((inputs.T @ inputs)[None], 0.0)
    swept = obs.sweep(weight[None], found, obs.Given(kept[None])).weight[0]
    targets = inputs @ weight.T
    errors = (inputs @ swept.T - targets).square().sum(0)
    best = torch.stack([least(inputs, targets[:, row], kept[row]) for row in range(3)])
    assert bool((errors >= best * (1 - 1e-7) - 1e-7).all())
    torch.testing.assert_close(errors[0], best[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("block", [1, 3, 12, 100])
def test_with_inputs_apart_the_surgeon_takes_the_smallest_products_and_changes_nothing_else(
    block: int,
) -> None:
    torch.manual_seed(1)
    weight, size = torch.randn(2, 5, 12, dtype=torch.float64), torch.rand(2, 12, dtype=torch.float64) + 0.1
    found = obs.Hessian.of(torch.diag_embed(size), 0.0)
    kept = torch.zeros_like(weight, dtype=torch.bool)
    kept.view(-1)[:50] = True
    allowed = torch.ones_like(kept)
    allowed[0, 0] = False
    kept[0, 0] = False
    swept = obs.sweep(weight, found, obs.Cheapest(kept, allowed, block), block)
    assert int(swept.kept.sum()) == int(kept.sum())
    assert not swept.kept[0, 0].any()
    torch.testing.assert_close(swept.weight, weight * swept.kept)
    cost = (weight.square() * size[:, None]).masked_fill(~allowed, -1)
    for start in range(0, 12, block):  # within a block of columns, the cheapest
        here, stays = cost[..., start : start + block], swept.kept[..., start : start + block]
        assert float(here[~stays].max()) <= float(here[stays].min())


@pytest.mark.parametrize(("apart", "across"), [(1, False), (3, False), (1, True)])
def test_of_each_group_the_cheapest_go(apart: int, across: bool) -> None:
    torch.manual_seed(2)
    weight = torch.randn(1, 8, 12, dtype=torch.float64)
    size = torch.rand(1, 12, dtype=torch.float64) + 0.1
    kept = torch.rand(1, 8, 12) < 0.6
    allowed = kept | (torch.rand(1, 8, 12) < 0.7)
    found = obs.Hessian.of(torch.diag_embed(size), 0.0)
    swept = obs.sweep(weight, found, obs.CheapestOfEach(kept, allowed, 4, apart, across), 5)
    cost = weight.square() * size[:, None]
    rows, columns = range(8), range(12)
    if across:
        groups = [[(r + i, c) for i in range(4)] for r in range(0, 8, 4) for c in columns]
    else:
        starts = [s + a for s in range(0, 12, 4 * apart) for a in range(apart)]
        groups = [[(r, s + i * apart) for i in range(4)] for r in rows for s in starts]
    for group in groups:
        count = sum(bool(kept[0, r, c]) for r, c in group)
        best = sorted((at for at in group if allowed[0, at[0], at[1]]), key=lambda at: -cost[0, at[0], at[1]])
        assert {at for at in group if swept.kept[0, at[0], at[1]]} == set(best[:count])


class Transposed(nn.Module):
    """A linear layer whose weight is [in, out], as in GPT-2."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 12))
        self.bias = nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16, bias=False), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(1):
            x = x + self.second(F.gelu(self.first(x)))
        return x


def mixed(*shape: int) -> Tensor:
    """Inputs that hang together and have a mean."""
    x = torch.randn(*shape, dtype=torch.float64)
    return x + x.roll(1, 1) + x.roll(2, -1) + 0.5


MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(8, 6), (60, 8)),
    "tokens": (lambda: nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4, bias=False)), (20, 5, 8)),
    "transposed": (lambda: nn.Sequential(Transposed(), nn.ReLU(), nn.Linear(12, 4)), (60, 8)),
    "residual": (Residual, (60, 8)),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2)),
        (9, 4, 8, 7),
    ),
    "normalised": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)
        ),
        (9, 4, 8, 7),
    ),
    "groups": (
        lambda: nn.Sequential(
            nn.Conv1d(8, 8, 3, groups=2, dilation=2), nn.ReLU(), nn.Conv1d(8, 8, 4, groups=8)
        ),
        (9, 8, 20),
    ),
}


def case(name: str) -> tuple[nn.Module, Tensor, list[tuple[Tensor, None]]]:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model, x = make().double().eval(), mixed(*shape)
    return model, x, [(x[: len(x) // 3], None), (x[len(x) // 3 :], None)]


@pytest.mark.parametrize("select", ["criterion", "obs"])
@pytest.mark.parametrize("granularity", ["weight", "2:4"])
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_comes_nearer_and_what_is_cut_stays_cut(name: str, granularity: str, select: str) -> None:
    model, x, data = case(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    asked: dict[str, Any] = {
        "granularity": granularity,
        "amount": 0.5,
        "scope": "local",
        "criterion": "wanda",
    }
    dropped = prune(model, x, data=data, **asked)
    made = prune(model, x, data=data, compensation="reconstruct", select=select, rows=10_000, **asked)
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in before.items())
    assert made.compensated["layers"].keys() == made.masks.keys()
    for layer, told in made.compensated["layers"].items():
        mask, weight = made.masks[layer], made.model.get_parameter(layer)
        assert told["after"] >= 0
        assert told["after"] <= told["before"] * (1 if select == "criterion" else 1.05)
        assert told["damping"] == 0.01
        assert not weight[~mask].any()
        assert int(mask.sum()) == int(dropped.masks[layer].sum())
        if granularity == "2:4":
            along = mask.movedim(1, -1).unflatten(-1, (-1, 4))
            assert set(along.sum(-1).unique().tolist()) == {2}
    if select == "criterion":
        assert all(torch.equal(made.masks[layer], mask) for layer, mask in dropped.masks.items())
    with torch.no_grad():
        errors = [(cut.model(x) - model(x)).square().mean() for cut in (dropped, made)]
    assert float(errors[1]) < float(errors[0])


@pytest.mark.parametrize("granularity", ["weight", "2:4", "7:8"])
def test_refined_to_the_end_the_weights_are_least_squares_with_a_bias(granularity: str) -> None:
    model, x, data = case("linear")
    asked: dict[str, Any] = {"granularity": granularity, "data": data, "compensation": "reconstruct"}
    if granularity == "weight":
        asked["amount"] = 0.5
    made = prune(model, x, damping=0.0, rows=10_000, refine=40, **asked)
    swept = prune(model, x, damping=0.0, rows=10_000, refine=0, **asked)
    with torch.no_grad():
        targets = model(x)
        errors, before = ((cut.model(x) - targets).square().sum(0) for cut in (made, swept))
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    kept = torch.cat([made.masks["weight"], torch.ones(6, 1, dtype=torch.bool)], 1)
    best = torch.stack([least(ones, targets[:, row], kept[row]) for row in range(6)])
    torch.testing.assert_close(errors, best, rtol=1e-6, atol=1e-12)
    assert bool((before >= best * (1 - 1e-6)).all())
    variance = float((targets - targets.mean(0)).square().sum())
    told = [cut.compensated["layers"]["weight"]["after"] for cut in (made, swept)]
    assert told == pytest.approx([float(each.sum()) / variance for each in (best, before)], rel=1e-6)


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize("kind", ["dead", "few", "same", "zero"])
def test_inputs_that_say_little_are_no_obstacle(kind: str, damping: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.randn(40, 10)
    if kind == "dead":
        x[:, 3:6] = 0
    elif kind == "few":
        x = x[:3]
    elif kind == "same":
        x[:, 1:] = x[:, :1]
    else:
        x.zero_()
    made = prune(
        model, x, amount=0.5, scope="local", data=[(x, None)], compensation="reconstruct", damping=damping
    )
    assert made.compensated["layers"]["0.weight"]["damping"] > 0
    for told in made.compensated["layers"].values():
        assert told["damping"] >= damping
        assert told["after"] <= told["before"] + 1e-6
    assert all(bool(parameter.isfinite().all()) for parameter in made.model.parameters())


def test_an_output_the_sweep_serves_worse_than_dropping_keeps_its_weights() -> None:
    torch.manual_seed(0)
    base = torch.randn(3, 400, dtype=torch.float64)
    # the kept column differs from the last, which goes too, by a little of what the first is
    x = torch.stack([base[0], base[1] + 0.1 * base[0], base[1]], 1)
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1.0, 1e-9]]))
    mask = {"weight": torch.tensor([[False, True, False]])}
    found = obs.Hessian.of((x.T @ x)[None], 0.0)
    swept = obs.sweep(model.weight.detach()[None], found, obs.Given(mask["weight"][None])).weight[0]
    assert float((x @ swept.T - model(x).detach()).square().sum()) > float(x[:, 0].square().sum())
    made = prune(
        model,
        x,
        amount=2 / 3,
        masks=mask,
        data=[(x, None)],
        compensation="reconstruct",
        damping=0.0,
        refine=0,
    )
    told = made.compensated["layers"]["weight"]
    assert told["after"] == told["before"]
    assert made.model.weight.tolist() == [[0.0, 1.0, 0.0]]


class Shared(nn.Module):
    """Layers no sweep can have: one used twice, a table, one tied to it, one transposed, one nothing reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 8)
        self.twice, self.once, self.unreached = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.up = nn.ConvTranspose1d(8, 8, 2)
        self.out = nn.Linear(8, 12, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.twice(F.relu(self.twice(self.table(ids))))
        return self.out(self.up(self.once(x).mT).mT)


def test_what_a_sweep_can_not_have_is_left_and_told() -> None:
    torch.manual_seed(0)
    model, ids = Shared(), torch.randint(12, (30, 6))
    asked: dict[str, Any] = {"amount": 0.5, "scope": "local", "include": "all"}
    made = prune(model, ids, data=[(ids, None)], compensation="reconstruct", **asked)
    dropped = prune(model, ids, **asked).model
    assert list(made.compensated["layers"]) == ["once.weight"]
    left = {"table.weight", "twice.weight", "unreached.weight", "up.weight"}
    assert {name for name in made.compensated["left"] if "bias" not in name} == left
    for name in left:
        assert torch.equal(made.model.get_parameter(name), dropped.get_parameter(name))


@pytest.mark.parametrize("normalised", [False, True])
def test_a_bias_that_is_cut_too_stays_as_it_is(normalised: bool) -> None:
    torch.manual_seed(0)
    norm = [nn.BatchNorm2d(8)] if normalised else []
    model, x = nn.Sequential(nn.Conv2d(4, 8, 3), *norm).eval(), mixed(8, 4, 6, 6).float()
    made = prune(
        model, x, amount=0.5, include=("weights", "biases"), data=[(x, None)], compensation="reconstruct"
    )
    mask = made.masks["0.bias"]
    assert torch.equal(made.model[0].bias, model[0].bias * mask)
    told = made.compensated["layers"]["0.weight"]
    assert told["after"] < told["before"]


def test_earlier_cuts_stay_when_the_surgeon_chooses() -> None:
    model, x, data = case("convolution")
    earlier = Masks({"0.weight": torch.rand(8, 4, 3, 3) < 0.8, "2.weight": torch.rand(4, 8, 3, 3) < 0.8})
    for granularity in ("weight", "2:4"):
        asked: dict[str, Any] = {"granularity": granularity, "amount": 0.5, "masks": earlier}
        made = prune(model, x, data=data, compensation="reconstruct", select="obs", **asked)
        expected = prune(model, x, **asked).masks
        for name, mask in made.masks.items():
            assert not (mask & ~earlier[name]).any()
            assert not made.model.get_parameter(name)[~mask].any()
            assert int(mask.sum()) == int(expected[name].sum())
            assert not torch.equal(mask, expected[name])


@pytest.mark.parametrize("select", ["criterion", "obs"])
def test_in_place_a_generator_and_no_example_give_the_same(select: str) -> None:
    model, x, data = case("tokens")
    asked: dict[str, Any] = {
        "amount": 0.5,
        "compensation": "reconstruct",
        "select": select,
        "criterion": "wanda",
    }
    made = prune(model, x, data=data, **asked)
    own = prune(model, data=iter(data), inplace=True, **asked)
    assert own.model is model
    for one, other in zip(made.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert made.compensated == own.compensated


def test_options_go_to_whom_they_belong_and_nonsense_is_refused() -> None:
    model, x, data = case("linear")
    made = prune(
        model, x, amount=0.5, data=data, criterion="wanda", compare="none", compensation="reconstruct", rows=8
    )
    plain = prune(model, x, amount=0.5, data=data, criterion="wanda", compare="none")
    assert torch.equal(made.masks["weight"], plain.masks["weight"])
    assert made.choices["rows"] == 8
    uneven = [(x * torch.linspace(0.1, 2, 8, dtype=x.dtype), None)]
    asked: dict[str, Any] = {"amount": 0.5, "data": uneven, "criterion": "obs"}
    shared = prune(model, x, damping=100.0, compensation="reconstruct", **asked)
    assert shared.compensated["layers"]["weight"]["damping"] == 100.0
    assert torch.equal(shared.masks["weight"], prune(model, x, damping=100.0, **asked).masks["weight"])
    assert not torch.equal(shared.masks["weight"], prune(model, x, **asked).masks["weight"])
    for option in ({"select": "all"}, {"rows": 0}, {"block": 0}, {"refine": -1}, {"damping": -1.0}):
        with pytest.raises(InputError, match=rf"option {next(iter(option))} of"):
            prune(model, x, amount=0.5, data=data, compensation="reconstruct", **option)
    with pytest.raises(InputError, match="data="):
        prune(model, x, amount=0.5, compensation="reconstruct")
    with pytest.raises(InputError, match="NaN"):
        prune(model, x, amount=0.5, data=[(x * torch.nan, None)], compensation="reconstruct")


def test_dropping_looks_at_no_data_and_traces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, _ = case("linear")
    monkeypatch.setattr(weights, "trace", lambda *_: pytest.fail("traced"))
    made = prune(model, x, amount=0.5, data=(pytest.fail("read") for _ in range(1)))
    assert made.compensated == {}
    assert torch.equal(made.model.weight, model.weight * made.masks["weight"])


def test_more_rows_than_there_are_and_few_give_a_fit_that_is_repeatable() -> None:
    model, x, data = case("convolution")
    asked: dict[str, Any] = {"amount": 0.5, "data": data, "compensation": "reconstruct", "rows": 2}
    one, other = (secateur.prune(model, x, seed=3, **asked).model for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
