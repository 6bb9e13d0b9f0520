"""Whatever is wrong with a request for a smaller model, one clear sentence says so, and the model stays as it was."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, ModelError, SecateurError

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))


def prune(model: Any = None, inputs: Any = X, **choices: Any) -> Any:
    """Prune a small model by half unless told otherwise."""
    given = {"granularity": "channel", "scope": "local", "amount": 0.5} | choices
    return secateur.prune(mlp() if model is None else model, inputs, **given)


def sentence(error: BaseException) -> str:
    """Return an error's message, which must be one line of moderate length that ends like a sentence."""
    text = str(error)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    assert len(text) < 300
    return text


CHOICES: dict[str, tuple[dict[str, Any], type[SecateurError], str]] = {
    "no example inputs": ({"inputs": None}, InputError, "needs example inputs"),
    "an amount above 1": ({"amount": 1.7}, InputError, "The amount 1.7 is not a number between 0 and 1"),
    "a negative amount": ({"amount": -0.1}, InputError, "The amount -0.1 is not"),
    "an amount of words": ({"amount": "half"}, InputError, "The amount 'half' is not"),
    "an amount that is no number": ({"amount": float("nan")}, InputError, "The amount nan is not"),
    "neither amount nor budget": ({"amount": None}, InputError, "either an amount such as 0.5, or a budget"),
    "both amount and budget": ({"budget": {"macs": 0.5}}, InputError, "not both"),
    "an impossible budget": (
        {"amount": None, "budget": {"macs": 0.001}}, InputError, "The budget macs=0.001 can't be met"),
    "a budget of an unknown cost": (
        {"amount": None, "budget": {"flops": 0.5}}, InputError, "There is no budget named 'flops'"),
    "a budget without a name": ({"amount": None, "budget": 0.5}, InputError, "A budget names one cost"),
    "an empty budget": ({"amount": None, "budget": {}}, InputError, "A budget names one cost"),
    "a latency in words": (
        {"amount": None, "budget": {"latency_ms": "fast"}}, InputError, "A latency budget is"),
    "a budget for weights": (
        {"granularity": "weight", "budget": {"macs": 0.5}}, InputError,
        "The setting budget has no meaning for the granularity weight, only for channel, head: leave it out"),
    "a multiple for weights": (
        {"granularity": "weight", "round_to": 8}, InputError, "The setting round_to has no meaning for"),
    "a limit for weights": (
        {"granularity": "2:4", "amount": None, "max_amount": 0.5}, InputError,
        "The setting max_amount has no meaning for the granularity 2:4"),
    "a limit above 1": ({"max_amount": 1.7}, InputError, "1.7 is not a number between 0 and 1"),
    "an unknown layer to keep": ({"keep": "nope"}, InputError, "No layer with parameters matches 'nope'"),
    "an unknown layer to cut": ({"layers": ["0", "nope.*"]}, InputError, "No layer with parameters matches 'nope.*'"),
    "all layers to keep": ({"keep": "*"}, ModelError, "There is nothing to prune by channel"),
    "a scope of weights": ({"scope": "erk"}, InputError, "There is no scope for units named 'erk'"),
    "an unknown compensation": (
        {"compensation": "dropp"}, InputError, "There is no compensation named 'dropp': did you mean drop?"),
    "a compensation for weights": (
        {"granularity": "weight", "compensation": "none"}, InputError, "There is no compensation named 'none'"),
    "an unknown granularity": ({"granularity": "unit"}, InputError, "There is no granularity 'unit'"),
    "an unknown criterion": ({"criterion": "magnitute"}, InputError, "There is no criterion named 'magnitute'"),
    "an unknown option": ({"power": 2}, InputError, "The criterion magnitude has no option 'power'"),
    "an unknown norm": ({"norm": "l7"}, InputError, "There is no norm 'l7'"),
    "roles": ({"include": "all"}, InputError, "The setting include has no meaning for"),
    "a criterion without its data": ({"criterion": "taylor"}, InputError, "needs the gradient on some data"),
    "no data at all": ({"criterion": "taylor", "data": []}, InputError, "The data holds no batch"),
    "data of another shape": (
        {"criterion": "taylor", "data": [(torch.randn(3, 5), torch.zeros(3, dtype=torch.int64))]},
        InputError, "The calibration data gives no gradient"),
    "labels out of range": (
        {"criterion": "taylor", "data": [(X, torch.tensor([0, 1, 7]))]}, InputError, "labels that fit its outputs"),
    "data without pairs": (
        {"criterion": "taylor", "data": [X]}, InputError, "A batch of calibration data is a pair"),
    "no heads": ({"granularity": "head"}, ModelError, "There is nothing to prune by head"),
    "masks that are none": ({"masks": {"0.weight": torch.ones(10, 4)}}, InputError, "masks are boolean"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_that_makes_no_sense_is_refused(name: str) -> None:
    choices, kind, words = CHOICES[name]
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(kind) as error:
        prune(model, **choices)
    assert words in sentence(error.value)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


LEAKS: dict[str, dict[str, Any]] = {
    "a multiple that is no whole number": {"round_to": 2.5},
    "a multiple in words": {"round_to": "4"},
    "a negative multiple": {"round_to": -3},
    "no multiple": {"round_to": 0},
    "data that is no data": {"criterion": "taylor", "data": 5},
    "masks of another shape": {"masks": {"0.weight": torch.ones(3, 4, dtype=torch.bool)}},
    "masks of another model": {"masks": {"nope": torch.ones(3, 4, dtype=torch.bool)}},
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
def test_a_choice_nobody_looks_at(name: str) -> None:
    with pytest.raises(SecateurError) as error:
        prune(**LEAKS[name])
    sentence(error.value)


INPUTS: dict[str, tuple[Any, str]] = {
    "another size": (torch.randn(3, 5), "of shape [3, 5] ("),
    "another rank": (torch.randn(4, 2, 3, 5), "of shape [4, 2, 3, 5] ("),
    "too many": ((X, X), "of shape [3, 4], [3, 4] ("),
    "too few": ((), "of shape nothing ("),
    "another keyword": ({"x": X}, "of shape x=[3, 4] ("),
    "no tensor": ("text", "of shape str ("),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_the_model_does_not_take_are_refused_with_their_shape(name: str) -> None:
    inputs, words = INPUTS[name]
    for call in (secateur.analyze, prune):
        with pytest.raises(ModelError) as error:
            call(mlp(), inputs)
        assert sentence(error.value).startswith("Sequential does not run on example inputs")
        assert words in str(error.value)
        assert str(error.value).endswith(
            "give what its forward takes, as a tensor, a tuple, or a dict of keywords."
        )


class Uncopyable(nn.Linear):
    """A model that can't be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot pickle a lock. Really")


def with_nan() -> nn.Module:
    model = mlp()
    with torch.no_grad():
        model[2].weight[1, 3] = float("nan")
    return model


def scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(mlp())


def traced() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(mlp(), X)


MODELS: dict[str, tuple[Callable[[], Any], type[SecateurError], str]] = {
    "NaN weights": (with_nan, ModelError, "2.weight holds NaN or infinite weights"),
    "one layer": (lambda: nn.Linear(4, 2), ModelError, "every group is locked or left out (weight: it is an output"),
    "no parameters": (nn.ReLU, ModelError, "There is nothing to prune by channel"),
    "units of one": (
        lambda: nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 2)), ModelError, "There is nothing to prune"),
    "a class": (lambda: nn.Linear, InputError, "A model is a torch.nn.Module, not the class Linear"),
    "a function": (lambda: torch.relu, InputError, "A model is a torch.nn.Module, not a "),
    "nothing": (lambda: {}, InputError, "A model is a torch.nn.Module, not a dict"),
    "a model that can't be copied": (
        lambda: nn.Sequential(Uncopyable(4, 8), nn.ReLU(), nn.Linear(8, 2)),
        ModelError,
        "can't be copied (its module 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_can_not_be_pruned_is_refused(name: str) -> None:
    build, kind, words = MODELS[name]
    with pytest.raises(kind) as error:
        prune(build())
    assert words in sentence(error.value)


@pytest.mark.parametrize(
    "build",
    [lambda: nn.Sequential(nn.LazyLinear(10), nn.ReLU(), nn.Linear(10, 2)), lambda: mlp().to("meta")],
    ids=["lazy", "meta"],
)
def test_a_model_without_values_is_refused(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(ModelError, match="has no values yet"):
        prune(build())


@pytest.mark.parametrize("build", [scripted, traced])
def test_a_script_is_refused(build: Callable[[], Any]) -> None:
    with pytest.raises(ModelError, match="ScriptModule"):
        prune(build())


def test_a_lazy_model_can_not_be_analyzed() -> None:
    with pytest.raises(ModelError):
        secateur.analyze(nn.Sequential(nn.LazyLinear(10), nn.ReLU(), nn.Linear(10, 2)), X)


@pytest.mark.parametrize("inputs", [X, X.to("meta")], ids=["cpu", "meta"])
def test_a_model_on_the_meta_device_can_be_analyzed(inputs: Tensor) -> None:
    (group,) = secateur.analyze(mlp().to("meta"), inputs).free
    assert (group.name, group.units) == ("0.weight", 10)


def test_a_refusal_comes_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("it has traced")

    monkeypatch.setattr("secateur.pruning.units.trace", never)
    for choices in (
        {"granularity": "unit"},
        {"criterion": "nope"},
        {"max_amount": 2},
        {"budget": {"macs": 0.5}},
    ):
        with pytest.raises(InputError):
            prune(**choices)


def test_in_place_a_refused_model_stays_as_it_was() -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    for choices in ({"keep": "*"}, {"amount": None, "budget": {"params": 0.001}}, {"amount": 1.7}):
        with pytest.raises(SecateurError):
            prune(model, inplace=True, **choices)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert not hasattr(model, "secateur_plan")


def test_nothing_is_printed_while_a_refused_cut_is_tried(capfd: pytest.CaptureFixture[str]) -> None:
    class Checks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            if h.shape[-1] != 6:
                raise ValueError("six features, please")
            return self.last(h)

    with pytest.raises(ModelError, match="six features, please"):
        prune(Checks())
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_summary_tells_bytes_and_time_before_and_after() -> None:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)).double()
    result = secateur.prune(
        model, torch.randn(4, 64, dtype=torch.float64), granularity="channel", amount=0.5, timed=True
    )
    assert result.bytes == (8 * (2 * 64 * 256 + 256 + 64), 8 * (2 * 64 * 128 + 128 + 64))
    assert result.milliseconds is not None
    assert min(result.milliseconds) > 0
    summary = result.summary()
    assert "bytes" in summary
    assert "ms a pass" in summary
    with pytest.raises(InputError, match="Timing compares the model with the smaller one: leave inplace out"):
        secateur.prune(model, torch.ones(1, 64), granularity="channel", amount=0.5, timed=True, inplace=True)
