"""Which parameters a cut may touch: roles, names, globs, tied parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from secateur.core.errors import InputError, ModelError
from secateur.sparsity.targets import ROLES, as_names, matches, names_in, prunable


class Odd(nn.Module):
    """One parameter of every kind that architectures have."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.vocabulary = nn.Linear(4, 7, bias=False)
        self.bag = nn.EmbeddingBag(3, 4)
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.ln = nn.LayerNorm((4, 5))
        self.gn = nn.GroupNorm(2, 4)
        self.lstm = nn.LSTM(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.class_token = nn.Parameter(torch.rand(1, 1, 4))
        self.relative_position_bias_table = nn.Parameter(torch.rand(9, 2))
        self.layer_scale = nn.Parameter(torch.rand(4, 1, 1))
        self.logit_scale = nn.Parameter(torch.rand(()))
        self.custom = RMSNormOfSomebody(4)
        self.normed = NormedLinear(4, 3)


class RMSNormOfSomebody(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(1, size, 1, 1))


class NormedLinear(nn.Linear):
    """A layer of weights, whatever its class is called."""


EXPECTED = {
    "weights": {
        "conv.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "normed.weight",
    },
    "biases": {
        "conv.bias",
        "lstm.bias_ih_l0",
        "lstm.bias_hh_l0",
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "attention.bias_k",
        "attention.bias_v",
    },
    "norms": {
        "bn.weight",
        "bn.bias",
        "ln.weight",
        "ln.bias",
        "gn.weight",
        "gn.bias",
        "custom.weight",
        "normed.bias",
    },
    "embeddings": {"embed.weight", "bag.weight"},
    "outputs": {"vocabulary.weight"},
    "others": {"class_token", "relative_position_bias_table", "layer_scale", "logit_scale"},
}


@pytest.mark.parametrize("role", ROLES)
def test_every_parameter_plays_its_role(role: str) -> None:
    assert set(prunable(Odd(), include=role)) == EXPECTED[role]


def test_all_roles_together_are_all_parameters_in_the_models_order() -> None:
    model = Odd()
    assert list(prunable(model, include="all")) == [name for name, _ in model.named_parameters()]
    assert list(prunable(model, include=ROLES)) == list(prunable(model, include=["all"]))


def test_the_default_is_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    found = prunable(model)
    assert list(found) == ["0.weight", "2.weight"]
    assert found["0.weight"] is model[0].weight


def net() -> nn.Module:
    return nn.ModuleDict(
        {
            "layer1": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4)),
            "layer10": nn.Linear(4, 4),
            "fc": nn.Linear(4, 2),
        }
    )


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("fc", ["fc.weight"]),
        ("fc.weight", ["fc.weight"]),
        ("layer1", ["layer1.0.weight", "layer1.1.weight"]),
        ("layer1*", ["layer1.0.weight", "layer1.1.weight", "layer10.weight"]),
        ("layer1.?", ["layer1.0.weight", "layer1.1.weight"]),
        ("layer1.[01].weight", ["layer1.0.weight", "layer1.1.weight"]),
        ("*.weight", ["layer1.0.weight", "layer1.1.weight", "layer10.weight", "fc.weight"]),
    ],
)
def test_names_and_globs(pattern: str, meant: list[str]) -> None:
    everything = list(prunable(net()))
    assert list(prunable(net(), layers=[pattern])) == meant
    assert list(prunable(net(), layers=pattern)) == meant  # a text is one name, not its letters
    left = [name for name in everything if name not in meant]
    if left:
        assert list(prunable(net(), keep=[pattern])) == left


def test_keep_wins_over_layers() -> None:
    assert list(prunable(net(), layers=["layer1"], keep=["layer1.0"])) == ["layer1.1.weight"]


@pytest.mark.parametrize("pattern", ["fc2", "layer", "FC", "", "layer1.2", "fc.weight.data", "relu"])
@pytest.mark.parametrize("argument", ["keep", "layers"])
def test_patterns_that_match_nothing_are_refused(argument: str, pattern: str) -> None:
    with pytest.raises(
        InputError, match=r"^No layer with parameters matches '.*': (list the layers|did you mean) .*[.?]$"
    ):
        prunable(net(), **{argument: [pattern]})


@pytest.mark.parametrize("include", ["weight", "", ["weights", "bias"], [None], [3]])
def test_unknown_roles_are_refused(include: object) -> None:
    with pytest.raises(
        InputError, match=r"There is no role '.*' to include: choose from weights, .* or all\."
    ):
        prunable(net(), include=include)  # type: ignore[arg-type]


def tied() -> nn.Module:
    model = nn.ModuleDict({"first": nn.Linear(4, 4), "body": nn.Linear(4, 4), "head": nn.Linear(4, 4)})
    model["head"].weight = model["first"].weight
    return model


def test_tied_parameters_are_cut_once_under_their_first_name() -> None:
    assert list(prunable(tied())) == ["first.weight", "body.weight"]


@pytest.mark.parametrize("name", ["first", "head", "head.weight"])
def test_tied_parameters_are_matched_by_any_of_their_names(name: str) -> None:
    assert list(prunable(tied(), keep=[name])) == ["body.weight"]
    assert list(prunable(tied(), layers=[name])) == ["first.weight"]


def test_a_module_used_twice_is_cut_once() -> None:
    layer = nn.Linear(3, 3)
    model = nn.ModuleDict({"a": layer, "b": layer})
    assert list(prunable(model)) == ["a.weight"]
    assert list(prunable(model, layers="b")) == ["a.weight"]


@pytest.mark.parametrize("model", [nn.Sequential(), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(0, 4)])
def test_models_without_weights_are_refused(model: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"^There is nothing to prune: .*\.$"):
        prunable(model)


@pytest.mark.parametrize(
    "model",
    [None, {}, nn.Linear, nn.Linear(2, 2).state_dict(), "lenet5"],
    ids=["nothing", "an empty dict", "a class", "a state dict", "a name"],
)
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(InputError, match=r"^A model is a torch\.nn\.Module, not (a|the class) \w+: .*\.$"):
        prunable(model)


def test_nothing_left_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing to prune"):
        prunable(net(), keep=["*"])
    with pytest.raises(ModelError, match="nothing to prune"):
        prunable(net(), include=[])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_weights_that_are_no_numbers_are_refused(value: float, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)
    with torch.no_grad():
        model[1].weight[0, 0] = value
    with pytest.raises(ModelError, match=r"^1\.weight holds NaN or infinite weights"):
        prunable(model)
    assert list(prunable(model, keep=["1"])) == ["0.weight"]


def test_weights_without_values_are_refused() -> None:
    for model in (nn.Sequential(nn.Linear(3, 4, device="meta")), nn.Sequential(nn.LazyLinear(4))):
        with pytest.raises(ModelError, match=r"^0\.weight has no values yet"):
            prunable(model)


def test_numbers_that_are_not_real_floats_are_left_alone() -> None:
    model = nn.Module()
    model.weight_whole = nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False)
    model.weight_complex = nn.Parameter(torch.ones(3, 3, dtype=torch.complex64))
    model.weight_short = nn.Parameter(torch.ones(3, 3).to(torch.float8_e4m3fn), requires_grad=False)
    model.weight_real = nn.Parameter(torch.ones(3, 3))
    assert list(prunable(model, include="all")) == ["weight_real"]


def test_matching_and_naming() -> None:
    assert matches("a.b.weight", "a.b")
    assert not matches("a.bc.weight", "a.b")
    assert as_names("abc") == ("abc",)
    assert as_names(None) == as_names(()) == ()
    assert as_names(["a", "b"]) == ("a", "b")


def test_layers_may_be_modules_and_parameters_themselves() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2), nn.Linear(2, 2))
    assert names_in(model, [model[0], model[1].weight, "2"]) == ("0", "1.weight", "2")
    assert names_in(model, model[0]) == ("0",), "a container is one layer, not a list of its children"
    assert names_in(model, model[1].bias) == ("1.bias",), "nor a tensor one of its rows"
    assert names_in(model, model[0].parameters()) == ("0.0.weight", "0.0.bias")
    assert set(prunable(model, keep=[model[0]], layers=None)) == {"1.weight", "2.weight"}
    assert set(prunable(model, layers=(model[2], model[0][0].weight))) == {"0.0.weight", "2.weight"}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Linear(2, 2)], "This Linear is no part of the model"),
        (torch.ones(2), "This Tensor is no part of the model"),
        ([3], "3 is no name of a layer"),
        (3, "3 is no name of a layer"),
        ([["1"]], "is no name of a layer"),
    ],
)
def test_what_is_no_layer_of_the_model_is_refused(layers: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        names_in(nn.Sequential(nn.Linear(2, 2)), layers)


def test_the_model_itself_is_no_layer_of_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(InputError, match="no layer of it"):
        names_in(model, model)
