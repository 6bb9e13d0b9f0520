"""Reconstruction, correction and the criterion that foresees it, against least squares done by hand in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from structural_zoo import CASES, run
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.compensation import lockstep
from secateur.core.errors import InputError
from secateur.importance import unit_scores

EXACT = {"damping": 1e-12, "rows": 10**6}


def batches(*shape: int, count: int = 1, seed: int = 0) -> list[tuple[Tensor, None]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(shape, generator=generator, dtype=torch.float64), None) for _ in range(count)]


def convolutions(**how: Any) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, bias=False, **how),
        nn.BatchNorm2d(4),
    )
    for norm in (model[1], model[4]):
        assert isinstance(norm, nn.BatchNorm2d)
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.uniform_(tensor, -1, 1)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    return model.double().eval()


@pytest.mark.parametrize(
    "how", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": (2, 0)}], ids=str
)
def test_a_convolution_is_fitted_as_least_squares_on_its_patches(how: dict[str, Any]) -> None:
    model, data = convolutions(**how), batches(8, 2, 9, 7)
    result = secateur.prune(
        model, data[0][0], granularity="channel", amount=0.5, data=data, compensation="reconstruct", **EXACT
    )
    small: Any = result.model
    with torch.no_grad():
        inputs = small[:3](data[0][0])
        target = model[3](model[:3](data[0][0]))  # type: ignore[index, operator]
        rows = F.unfold(
            inputs, 3, stride=small[3].stride, padding=small[3].padding, dilation=small[3].dilation
        )
        rows = rows.transpose(1, 2).flatten(0, 1)
        ones = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
        goal = target.flatten(2).transpose(1, 2).flatten(0, 1)
        best = torch.linalg.lstsq(ones, goal, driver="gelsd").solution
        shift = model[4].running_mean - small[4].running_mean  # type: ignore[index, operator]
        ours = rows @ small[3].weight.flatten(1).T + shift
        torch.testing.assert_close(ours, ones @ best, rtol=1e-6, atol=1e-8)


class Residual(nn.Module):
    """A block whose second layer is fitted to what the stream was, the first block's error included."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.back = nn.Linear(5, 8), nn.Linear(8, 5)
        self.second, self.out = nn.Linear(5, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.back(self.first(x).relu())
        return x + self.out(self.second(x).relu())


def test_a_layer_in_front_of_a_sum_makes_up_for_what_was_lost_before() -> None:
    model, data = Residual().double().eval(), batches(64, 5)
    x = data[0][0]
    result = secateur.prune(
        model, x, granularity="channel", amount=0.5, data=data, compensation="reconstruct", **EXACT
    )
    small: Any = result.model
    with torch.no_grad():
        stream = x + small.back(small.first(x).relu())
        hidden = small.second(stream).relu()
        ones = torch.cat([hidden, torch.ones(64, 1, dtype=x.dtype)], 1)
        best = torch.linalg.lstsq(ones, model(x) - stream, driver="gelsd").solution
    torch.testing.assert_close(small.out(hidden), ones @ best, rtol=1e-6, atol=1e-8)
    dropped = secateur.prune(model, x, granularity="channel", amount=0.5).model
    assert (small(x) - model(x)).square().mean() < 0.5 * (dropped(x) - model(x)).square().mean()


def test_units_that_others_can_express_are_lost_without_loss() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 6), nn.Linear(6, 2)).double()  # rank 3 in six units
    data = batches(50, 4)
    result = secateur.prune(
        model,
        data[0][0],
        granularity="channel",
        amount=0.5,
        layers=["1"],
        keep=["0"],
        data=data,
        compensation="reconstruct",
        damping=1e-10,
    )
    fresh = batches(10, 4, seed=1)[0][0]
    torch.testing.assert_close(result.model(fresh), model(fresh), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compensation", ["reconstruct", "drop"])
def test_the_size_of_batches_changes_nothing(compensation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = convolutions(), batches(4, 2, 9, 7, count=5)
    how: dict[str, Any] = {
        "granularity": "channel",
        "amount": 0.4,
        "data": data,
        "compensation": compensation,
    }
    how |= EXACT if compensation == "reconstruct" else {}
    whole = secateur.prune(model, data[0][0], **how).model.state_dict()
    for least in (1, 4 * 4 * 6 * 9 * 7 * 2):
        monkeypatch.setattr(lockstep, "ACTIVATION_BYTES", least)
        parts = secateur.prune(model, data[0][0], **how).model.state_dict()
        for name, tensor in whole.items():
            torch.testing.assert_close(parts[name], tensor, rtol=1e-7, atol=1e-9, msg=name)


def test_the_same_seed_fits_the_same() -> None:
    model, data = convolutions(), batches(8, 2, 9, 7)
    how: dict[str, Any] = {
        "granularity": "channel",
        "amount": 0.5,
        "data": data,
        "compensation": "reconstruct",
    }
    one, two = (secateur.prune(model, data[0][0], rows=1, **how).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("samples", [1, 3])
def test_too_few_samples_and_dead_or_equal_channels_are_no_trouble(samples: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 5)).double()
    with torch.no_grad():
        model[0].weight[1] = model[0].weight[0]  # type: ignore[index, operator]
        model[0].bias[1] = model[0].bias[0]  # type: ignore[index, operator]
        model[0].weight[2:4] = 0  # type: ignore[index, operator]
        model[0].bias[2:4] = -1  # type: ignore[index, operator]
    data = batches(samples, 4)
    for damping in (0.0, 1e-3):
        result = secateur.prune(
            model,
            data[0][0],
            granularity="channel",
            amount=0.25,
            criterion="random",
            data=data,
            compensation="reconstruct",
            damping=damping,
        )
        assert all(tensor.isfinite().all() for tensor in result.model.parameters())
        assert result.compensated["layers"]["2.weight"]["damping"] >= damping


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("compensation", ["reconstruct", "drop"])
def test_every_architecture_is_made_up_for(name: str, compensation: str) -> None:
    case = CASES[name]()
    how: dict[str, Any] = {"granularity": "channel", "amount": 0.4, "scope": "local"}
    data = [(case.inputs, None)]
    dense = [tensor.clone() for tensor in case.model.state_dict().values()]
    result = secateur.prune(case.model, case.inputs, data=data, compensation=compensation, **how)
    assert all(torch.equal(*pair) for pair in zip(dense, case.model.state_dict().values(), strict=True))
    assert all(t.isfinite().all() for t in result.model.state_dict().values() if t.is_floating_point())
    run(result.model, case.inputs)
    for fit in result.compensated.get("layers", {}).values():
        assert fit["after"] <= fit["before"] * (1 + 1e-6) + 1e-6


def test_a_correction_gives_norms_the_statistics_and_biases_the_means_of_before() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )
    model = model.double().train()
    data = batches(32, 2, 7, 7)
    model[3].momentum = None  # type: ignore[index]
    model(data[0][0])  # the statistics of exactly these data
    result = secateur.prune(model, data[0][0], granularity="channel", amount=0.5, data=data)
    assert result.compensated["corrected"] >= 2
    small: Any = result.model.eval()
    with torch.no_grad():
        seen = small[:3](data[0][0])
        torch.testing.assert_close(small[3].running_mean, seen.mean((0, 2, 3)))
        unbiased = seen.var((0, 2, 3), correction=0) * 32 * 9 / (32 * 9 - 1)
        torch.testing.assert_close(small[3].running_var, unbiased)
        torch.testing.assert_close(small(data[0][0]).mean(0), model.eval()(data[0][0]).mean(0))


def test_where_nothing_changed_nothing_is_corrected() -> None:
    model, data = convolutions(), batches(8, 2, 9, 7)
    with torch.no_grad():
        model[3].weight[:, 2] = 0  # type: ignore[index, operator]
    scores = secateur.prune(
        model, data[0][0], granularity="channel", amount=1 / 6, criterion="refit", data=data
    )
    assert scores.kept["0.weight"] == 5
    torch.testing.assert_close(scores.model(data[0][0]), model(data[0][0]))


@pytest.mark.parametrize("granularity", ["channel", "weight"])
def test_a_correction_can_be_asked_for_and_refused(granularity: str) -> None:
    model, data = convolutions(), batches(8, 2, 9, 7)
    how: dict[str, Any] = {"granularity": granularity, "amount": 0.5, "data": data}
    norm = "4.running_mean"
    dense = model.state_dict()[norm]
    off = secateur.prune(model, data[0][0], correct=False, **how)
    on = secateur.prune(model, data[0][0], correct=True, **how)
    assert torch.equal(off.model.state_dict()[norm], dense)
    assert not torch.equal(on.model.state_dict()[norm], dense)
    assert (off.choices["correct"], on.choices["correct"]) == (False, True)
    with pytest.raises(InputError, match="A correction compares means on some data"):
        secateur.prune(model, data[0][0], granularity="weight", amount=0.5, correct=True)


def test_a_model_changed_in_place_is_made_up_for_too() -> None:
    model, data = convolutions(), batches(8, 2, 9, 7)
    how: dict[str, Any] = {
        "granularity": "channel",
        "amount": 0.5,
        "data": data,
        "compensation": "reconstruct",
    }
    copied = secateur.prune(model, data[0][0], **how).model.state_dict()
    result = secateur.prune(model, data[0][0], inplace=True, **how)
    assert result.model is model
    assert all(torch.equal(tensor, copied[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"data": None}, "The compensation reconstruct is fitted to what the model does on some data"),
        ({"data": [(torch.full((2, 2, 9, 7), torch.nan, dtype=torch.float64), None)]}, "NaN or infinity"),
        ({"data": []}, "The data holds no batch"),
        ({"damping": -1.0}, "damping"),
        ({"rows": 0}, "rows"),
        ({"damping": "much"}, "damping"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], sentence: str) -> None:
    how: dict[str, Any] = {"data": batches(2, 2, 9, 7), "granularity": "channel", "amount": 0.5}
    with pytest.raises(InputError, match=sentence):
        secateur.prune(
            convolutions(), batches(2, 2, 9, 7)[0][0], compensation="reconstruct", **(how | arguments)
        )


def refitted_errors(x: Tensor, weight: Tensor) -> tuple[list[int], list[float]]:
    """Take units one at a time, each time the one whose loss least squares makes up for best; by brute force."""
    left, order, rises, before = list(range(x.shape[1])), [], [], 0.0
    goal = x @ weight
    while left:
        errors = {}
        for unit in left:
            rest = [other for other in left if other != unit]
            fitted = (
                torch.linalg.lstsq(x[:, rest], goal, driver="gelsd").solution
                if rest
                else torch.zeros(0, weight.shape[1])
            )
            errors[unit] = float((goal - x[:, rest] @ fitted.to(x)).square().sum())
        unit = min(errors, key=lambda each: errors[each])
        rises.append(errors[unit] - before)
        before = errors[unit]
        left.remove(unit)
        order.append(unit)
    return order, rises


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_refit_is_what_greedy_removal_and_least_squares_lose(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)).double()
    x = torch.randn(300, 5, dtype=torch.float64)
    groups = secateur.analyze(model, x)
    found = unit_scores(
        model, groups.free, "refit", coupling=groups.coupling, data=[(x, None)], damping=1e-12, steps=1000
    )["0.weight"]
    with torch.no_grad():
        hidden, weight = model[:2](x), model[2].weight.T  # type: ignore[index, operator]
        order, rises = refitted_errors(hidden, weight)
        variance = (hidden @ weight).var(0, correction=0).sum()
    by_hand = torch.empty(6, dtype=torch.float64)
    worst = 0.0
    for unit, rise in zip(order, rises, strict=True):
        worst = max(worst, rise / len(x) / float(variance))
        by_hand[unit] = worst
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-9)
    if hidden.any(0).all():
        assert found.unique().numel() == len(order)


def test_scores_per_cost_are_scores_over_what_a_unit_saves() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 2))
    with torch.no_grad():
        for at in (0, 2, 4):
            nn.init.uniform_(model[at].weight, 0.9, 1.1)  # type: ignore[arg-type]
    x = torch.ones(1, 4)
    how: dict[str, Any] = {"granularity": "channel", "budget": {"macs": 0.8}, "normalization": "none"}
    plain, priced = (secateur.prune(model, x, per_cost=flag, **how) for flag in (False, True))
    # a unit of the first layer saves 4 + 40 products, one of the second 4 + 2
    assert priced.kept["0.weight"] < plain.kept["0.weight"]
    assert secateur.prune(model, x, per_cost=True, **how).kept == priced.kept


def test_the_model_goes_on_working_after_an_interrupted_reconstruction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, data = convolutions(), batches(8, 2, 9, 7)
    before = copy.deepcopy(model.state_dict())

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("secateur.compensation.reconstruct.LeastSquaresFit.act", interrupted)
    with pytest.raises(KeyboardInterrupt):
        secateur.prune(
            model, data[0][0], granularity="channel", amount=0.5, data=data, compensation="reconstruct"
        )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_error_of_a_step_is_not_blamed_on_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = convolutions(), batches(8, 2, 9, 7)

    def broken(*args: Any) -> None:
        raise ZeroDivisionError("of our own")

    monkeypatch.setattr("secateur.compensation.reconstruct.LeastSquaresFit.act", broken)
    with pytest.raises(ZeroDivisionError, match="of our own"):
        secateur.prune(
            model, data[0][0], granularity="channel", amount=0.5, data=data, compensation="reconstruct"
        )


class Tied(nn.Module):
    """A table that looks tokens up and also reads them out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.mix = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.table(tokens)
        out: Tensor = self.out(hidden + self.mix(hidden).relu())
        return out


def test_a_weight_with_two_uses_is_left_as_dropping_leaves_it_and_told() -> None:
    model, tokens = Tied().eval(), torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(0))
    how: dict[str, Any] = {
        "granularity": "channel",
        "amount": 0.5,
        "data": [(tokens, None)],
        "correct": False,
    }
    dropped = secateur.prune(model, tokens, **how)
    result = secateur.prune(model, tokens, compensation="reconstruct", **how)
    assert list(result.compensated["left"]) == ["table.weight"]
    assert torch.equal(result.model.state_dict()["table.weight"], dropped.model.state_dict()["table.weight"])
    assert not torch.equal(result.model.state_dict()["mix.weight"], dropped.model.state_dict()["mix.weight"])


class Weighted(nn.Module):
    """A sum with a factor, which is no residual stream that a fit could aim at as it is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.out = nn.Linear(5, 8), nn.Linear(8, 5), nn.Linear(5, 8)
        self.back = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.two(self.one(x).relu())
        return torch.add(stream, self.back((3 * self.out(stream)).tanh()), alpha=3)


def test_a_sum_with_a_factor_is_fitted_as_a_layer_by_itself() -> None:
    model, data = Weighted().double().eval(), batches(64, 5)
    x = data[0][0]
    how: dict[str, Any] = {"granularity": "channel", "amount": 0.5, "scope": "local", "data": data}
    result = secateur.prune(model, x, compensation="reconstruct", **how, **EXACT)
    small: Any = result.model
    assert result.kept["one.weight"] < 8  # the stream is off
    with torch.no_grad():
        hidden = (3 * small.out(small.two(small.one(x).relu()))).tanh()
        ones = torch.cat([hidden, torch.ones(64, 1, dtype=x.dtype)], 1)
        best = torch.linalg.lstsq(
            ones, (model(x) - model.two(model.one(x).relu())) / 3, driver="gelsd"
        ).solution
    torch.testing.assert_close(small.back(hidden), ones @ best, rtol=1e-6, atol=1e-8)


def test_a_correction_that_fails_half_way_leaves_the_model_as_the_cut_left_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    data = batches(16, 4)
    how: dict[str, Any] = {"granularity": "channel", "amount": 0.5}
    plain = secateur.prune(model, data[0][0], **how).model.state_dict()
    from secateur.compensation.correct import Shift

    acted, act = [], Shift.act

    def second(self: Shift) -> Any:
        acted.append(self.name)
        if len(acted) == 2:
            raise InputError("No more.")
        return act(self)

    monkeypatch.setattr(Shift, "act", second)
    result = secateur.prune(model, data[0][0], data=data, **how)
    assert len(acted) == 2
    assert result.compensated["not corrected"] == "No more."
    assert all(torch.equal(tensor, plain[name]) for name, tensor in result.model.state_dict().items())
    acted.clear()
    with pytest.raises(InputError, match="No more"):
        secateur.prune(model, data[0][0], data=data, correct=True, **how)


@pytest.mark.parametrize(
    ("granularity", "compensation", "line"),
    [
        ("channel", "drop", "compensation drop: 3 normalisations and biases corrected"),
        (
            "channel",
            "reconstruct",
            "compensation reconstruct: 2 layers, 1 normalisations and biases corrected",
        ),
        ("weight", "reconstruct", "compensation reconstruct: 3 layers"),
    ],
)
def test_the_summary_says_what_was_made_up_for(granularity: str, compensation: str, line: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    data = batches(16, 4)
    how: dict[str, Any] = {"granularity": granularity, "amount": 0.5, "data": data}
    assert line in secateur.prune(model, data[0][0], compensation=compensation, **how).summary().splitlines()


def test_the_summary_names_what_was_left_and_why() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.one(x).relu()
            return self.two(hidden) + self.two(hidden.square())  # type: ignore[no-any-return]

    data = batches(16, 4)
    how: dict[str, Any] = {
        "granularity": "channel",
        "amount": 0.5,
        "data": data,
        "compensation": "reconstruct",
    }
    lines = secateur.prune(Two().double(), data[0][0], **how).summary().splitlines()
    reason = "it is not the weight of one linear layer or convolution alone"
    assert f"  two.weight  not made up for: {reason}" in lines


def broken(x: Tensor) -> Tensor:
    spoilt = x.clone()
    spoilt[0, 0] = torch.nan
    return spoilt


@pytest.mark.parametrize("compensation", ["drop", "fuse"])
def test_a_correction_never_takes_over_what_is_no_number(compensation: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
    x = torch.randn(32, 4, dtype=torch.float64)
    how: dict[str, Any] = {"granularity": "channel", "amount": 0.5, "compensation": compensation}
    how["data"] = [(broken(x), None)]
    with pytest.warns(secateur.SecateurWarning, match="not corrected: The activations on this data hold NaN"):
        result = secateur.prune(model, x, **how)
    assert all(tensor.isfinite().all() for tensor in result.model.state_dict().values())
    with pytest.raises(InputError, match="The activations on this data hold NaN or infinity"):
        secateur.prune(model, x, correct=True, **how)


@pytest.mark.parametrize("granularity", ["weight", "2:4", "channel"])
@pytest.mark.parametrize("trouble", ["nan", "empty", "shape"])
def test_a_model_changed_in_place_is_as_it_was_where_making_up_fails(granularity: str, trouble: str) -> None:
    model, data = convolutions(), batches(8, 2, 9, 7)
    x = data[0][0]
    spoilt = {"nan": broken(x), "empty": x[:0], "shape": x[:, :1]}[trouble]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    how: dict[str, Any] = {"granularity": granularity, **({} if ":" in granularity else {"amount": 0.4})}
    with pytest.raises(InputError):
        secateur.prune(model, x, compensation="reconstruct", data=[(spoilt, None)], inplace=True, **how)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_handful_of_samples_corrects_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
    x = torch.randn(64, 4, dtype=torch.float64)
    how: dict[str, Any] = {"granularity": "channel", "amount": 0.5}
    plain = secateur.prune(model, x, **how).model.state_dict()
    few, many = (secateur.prune(model, x, data=[(x[:count], None)], **how) for count in (15, 16))
    assert (few.compensated["corrected"], many.compensated["corrected"]) == (0, 2)
    assert all(torch.equal(tensor, plain[name]) for name, tensor in few.model.state_dict().items())


def test_an_input_that_became_constant_keeps_its_variance() -> None:
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3, bias=False), nn.BatchNorm1d(3))
        .double()
        .eval()
    )
    with torch.no_grad():
        model[0].weight[4:] = 0  # type: ignore[index, operator]
        model[0].bias[4:] = 2  # type: ignore[index, operator]
        model[0].weight[:4] = 1e-3 * torch.rand(4, 4)  # type: ignore[index, operator]
        model[0].bias[:4] = 0  # type: ignore[index, operator]
        model[2].weight[:] = torch.tensor(4 * [0.1] + 4 * [1.0])  # type: ignore[index, operator]
    x = torch.rand(64, 4, dtype=torch.float64)
    result = secateur.prune(
        model, x, granularity="channel", amount=0.5, data=[(x, None)], layers=["0.weight"]
    )
    assert torch.equal(result.model.state_dict()["3.running_var"], torch.ones(3, dtype=torch.float64))


def test_a_fit_to_few_rows_warns(recwarn: pytest.WarningsRecorder) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    x = torch.randn(64, 4, dtype=torch.float64)
    for granularity in ("channel", "weight"):
        how: dict[str, Any] = {"granularity": granularity, "amount": 0.25, "compensation": "reconstruct"}
        with pytest.warns(
            secateur.SecateurWarning, match="fewer than 2 rows for each unknown, . of . layers"
        ):
            secateur.prune(model, x, data=[(x[:20], None)], **how)
        recwarn.clear()
        secateur.prune(model, x, data=[(x, None)], **how)
        assert not recwarn.list


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"criterion": "refit", "steps": 0}, "option steps of refit is 0: give a whole number from 1"),
        ({"criterion": "refit", "damping": -1.0}, "damping is -1.0: give a number from 0"),
        ({"criterion": "refit", "damping": float("nan")}, "damping is nan: give a number from 0"),
        ({"criterion": "refit", "damping": float("inf")}, "damping is inf: give a number from 0"),
        ({"compensation": "fuse", "tagret": "cluster"}, "did you mean target"),
        ({"correct": "yes"}, "setting correct is 'yes': give True or False"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], reason: str) -> None:
    model, data = convolutions(), batches(8, 2, 9, 7)
    with pytest.raises(InputError, match=reason):
        secateur.prune(model, data[0][0], granularity="channel", amount=0.5, data=data, **options)
