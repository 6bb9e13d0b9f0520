"""Exactly the dead units go, and the outputs are those of the whole model, not of one with units zeroed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import secateur
from secateur.core.errors import InputError

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
SEQUENCE = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
DEAD = [1, 4, 5]


def zeroed(tensor: Tensor, indices: list[int], dim: int = 0, to: float = 0.0) -> None:
    with torch.no_grad():
        tensor.index_fill_(dim, torch.tensor(indices), to)


def convolutions(padding: int = 0, bias: bool = True, norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    first = [nn.BatchNorm2d(8)] if norm else []
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), *first, nn.ReLU(), nn.Conv2d(8, 10, 3, padding=padding, bias=bias), nn.BatchNorm2d(10),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4),
    )  # fmt: skip
    for each in model:
        if isinstance(each, nn.BatchNorm2d):
            for tensor in (each.weight, each.bias, each.running_mean):
                nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


def perceptron(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 9, bias=bias), nn.GELU(), nn.Linear(9, 3))


def rows_and_bias() -> nn.Module:
    model = convolutions(norm=False)
    zeroed(model[0].weight, DEAD), zeroed(model[0].bias, DEAD)
    return model


def scale_and_shift_of_a_norm(padding: int = 1) -> nn.Module:
    model = convolutions(padding)
    zeroed(model[1].weight, DEAD), zeroed(model[1].bias, DEAD)
    return model


def scale_of_a_norm(padding: int = 0, bias: bool = True) -> nn.Module:
    model = convolutions(padding, bias)
    zeroed(model[1].weight, DEAD)
    return model


def rows(bias: bool = True) -> nn.Module:
    model = perceptron(bias)
    zeroed(model[0].weight, DEAD)
    return model


def columns() -> nn.Module:
    model = perceptron()
    zeroed(model[2].weight, DEAD, dim=1)
    return model


def masked_by_torch(layer: int, dim: int) -> nn.Module:
    model = perceptron()
    mask = torch.ones_like(model[layer].weight)
    mask.index_fill_(dim, torch.tensor(DEAD), 0)
    torch_prune.custom_from_mask(model[layer], "weight", mask)
    if dim == 0:
        torch_prune.custom_from_mask(model[layer], "bias", mask[:, 0])
    return model


def behind_dead_units() -> nn.Module:
    """Units of the second layer that only dead ones of the first feed, and the reverse."""
    model = perceptron()
    zeroed(model[0].weight, DEAD)
    alive = [unit for unit in range(8) if unit not in DEAD]
    with torch.no_grad():
        model[2].weight[2, alive] = 0
        model[0].weight[0] = 1
        model[2].weight[:, 0] = 0
        model[2].weight[7, 0] = 1  # only unit 7 looks at unit 0, and nothing at unit 7
        model[4].weight[:, 7] = 0
    return model


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)
        for layer in (self.stem, self.outer):
            zeroed(layer.weight, DEAD), zeroed(layer.bias, DEAD)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.outer(self.inner(x).relu()))


class Gated(nn.Module):
    def __init__(self, which: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up, self.down = (nn.Linear(*size, bias=False) for size in ((6, 8), (6, 8), (8, 3)))
        zeroed(getattr(self, which).weight, DEAD)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Attention(nn.Module):
    """Four heads of width 4, the last of which is dead."""

    def __init__(self, which: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        last = [12, 13, 14, 15]
        if which == "v":
            zeroed(self.v.weight, last)  # its bias stays: a constant
        else:
            zeroed(self.o.weight, last, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (4, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.o(mixed.transpose(1, 2).flatten(2))


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, int]]] = {
    "rows and bias": (rows_and_bias, IMAGE, {"0.weight": 5}),
    "scale and shift": (scale_and_shift_of_a_norm, IMAGE, {"0.weight": 5}),
    "scale, a constant into a bias": (scale_of_a_norm, IMAGE, {"0.weight": 5}),
    "scale, a constant into a norm": (lambda: scale_of_a_norm(bias=False), IMAGE, {"0.weight": 5}),
    "scale, a constant cut off by a border": (lambda: scale_of_a_norm(padding=1), IMAGE, {}),
    "rows, a constant into a bias": (rows, ROWS, {"0.weight": 5}),
    "rows, a constant and no bias": (lambda: rows(bias=False), ROWS, {}),
    "columns": (columns, ROWS, {"0.weight": 5}),
    "rows masked by torch": (lambda: masked_by_torch(0, 0), ROWS, {"0": 5}),
    "columns masked by torch": (lambda: masked_by_torch(2, 1), ROWS, {"0.weight": 5}),
    "units behind and in front": (behind_dead_units, ROWS, {"0.weight": 4, "2.weight": 7}),
    "a stream that nothing adds to": (Residual, ROWS, {"stem.weight": 5}),
    "a gate": (lambda: Gated("gate"), ROWS, {"gate.weight": 5}),
    "a gated value": (lambda: Gated("up"), ROWS, {"gate.weight": 5}),
    "values of a head": (lambda: Attention("v"), SEQUENCE, {"q.weight": 3}),
    "what reads a head": (lambda: Attention("o"), SEQUENCE, {"q.weight": 3}),
}


@pytest.mark.parametrize("how", [{"amount": "dead"}, {"criterion": "dead"}], ids=["amount", "criterion"])
@pytest.mark.parametrize("name", CASES)
def test_exactly_the_dead_units_go_and_the_outputs_stay(name: str, how: dict[str, Any]) -> None:
    make, inputs, kept = CASES[name]
    model, inputs = make().double().eval(), inputs.double()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    result = secateur.prune(model, inputs, granularity="channel", **how)
    assert result.groups is not None
    left = {
        each.name: result.kept[each.name]
        for each in result.groups.free
        if result.kept[each.name] < each.units
    }
    assert list(left.values()) == list(kept.values())
    assert all(found.startswith(wanted) for found, wanted in zip(left, kept, strict=True))
    for scale in (1, 3):
        torch.testing.assert_close(result.model(scale * inputs), model(scale * inputs), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert (
        f"{sum(each.units - result.kept[each.name] for each in result.groups.free)} dead units"
        in result.summary()
    )


def test_in_place_and_in_float32() -> None:
    model = scale_of_a_norm()
    expected = model(IMAGE)
    result = secateur.prune(model, IMAGE, granularity="channel", amount="dead", inplace=True)
    assert result.model is model
    assert model[0].out_channels == 5
    torch.testing.assert_close(model(IMAGE), expected)


def test_only_in_the_layers_that_are_named() -> None:
    model = behind_dead_units()
    result = secateur.prune(model, ROWS, granularity="channel", amount="dead", layers="2")
    assert [each.out_features for each in result.model[::2]] == [8, 7, 3]
    result = secateur.prune(model, ROWS, granularity="channel", amount="dead", keep="2.weight")
    assert [each.out_features for each in result.model[::2]] == [5, 9, 3]
    torch.testing.assert_close(result.model(ROWS), model(ROWS))


def test_dead_heads() -> None:
    model = Attention("v")
    result = secateur.prune(model, SEQUENCE, granularity="head", amount="dead")
    assert result.model.v.out_features == 12
    torch.testing.assert_close(result.model(SEQUENCE), model(SEQUENCE))


def test_a_closed_rectifier_is_not_dead() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.constant_(model[0].bias, -100.0)
    assert secateur.prune(model, ROWS, granularity="channel", amount="dead").achieved == 0


@pytest.mark.parametrize("image", [False, True])
def test_one_sample_at_one_place_makes_nothing_constant(image: bool) -> None:
    """Whatever there is only one number of is the same everywhere; other inputs tell that it is not constant."""
    model, x = (convolutions(), IMAGE[:1, :, :5, :5]) if image else (perceptron(), ROWS[:1])
    assert secateur.prune(model, x, granularity="channel", amount="dead").achieved == 0


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.inner, self.out = nn.Embedding(9, 6), nn.Linear(6, 8), nn.Linear(8, 9)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.inner(self.table(ids)).relu())


@pytest.mark.parametrize("token", [0, 1])
def test_one_token_makes_nothing_constant(token: int) -> None:
    model, ids = Tokens(), torch.full((1, 4), token)
    assert secateur.prune(model, ids, granularity="channel", amount="dead").achieved == 0
    zeroed(model.inner.weight, DEAD), zeroed(model.inner.bias, DEAD)
    assert secateur.prune(model, ids, granularity="channel", amount="dead").model.inner.out_features == 5


def test_features_of_a_normalised_stream_stay() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    zeroed(model[0].weight, DEAD), zeroed(model[0].bias, DEAD)
    assert secateur.prune(model, ROWS, granularity="channel", amount="dead").achieved == 0


def test_one_unit_stays_of_a_dead_layer() -> None:
    model = perceptron()
    nn.init.zeros_(model[0].weight)
    result = secateur.prune(model, ROWS, granularity="channel", amount="dead")
    assert result.model[0].out_features == 1
    torch.testing.assert_close(result.model(ROWS), model(ROWS))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"amount": "dead", "granularity": "weight"}, "Dead are channels or heads"),
        ({"criterion": "dead", "granularity": "layer"}, "Dead are channels or heads"),
        (
            {"amount": "dead", "round_to": 4},
            "The amount dead names exactly the units that go: leave round_to out",
        ),
        ({"amount": "dead", "criterion": "lamp"}, "leave criterion out"),
        ({"amount": "dead", "budget": {"macs": 0.5}}, "leave budget out"),
        ({"amount": 0.5, "criterion": "dead"}, "dead"),
        ({"amount": "ded"}, "The amount 'ded' is not a number"),
    ],
)
def test_nonsense_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        secateur.prune(perceptron(), ROWS, **{"granularity": "channel", **how})
