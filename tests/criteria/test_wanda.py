"""Wanda against its definition, one weight at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.errors import InputError
from secateur.criteria import measured, score


class Mixed(nn.Module):
    """Convolutions of both kinds, a linear layer on tokens, a parameter no layer reads, and a layer nothing reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, stride=2)
        self.grouped = nn.Conv1d(6, 8, 2, groups=2)
        self.linear = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.randn(3))
        self.unreached = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).flatten(2)
        return (self.linear(F.relu(self.grouped(x)).mT) * self.scale).mean(1)


def case() -> tuple[Mixed, list[tuple[Tensor, None]], dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Mixed().double()
    x = torch.randn(7, 4, 7, 5, dtype=torch.float64)
    inputs: dict[str, Tensor] = {}
    with torch.no_grad():
        inputs["conv"] = x
        inputs["grouped"] = F.relu(model.conv(x)).flatten(2)
        inputs["linear"] = F.relu(model.grouped(inputs["grouped"])).mT
    return model, [(x[:4], None), (x[4:], None)], inputs


def root_mean_square(values: Tensor) -> float:
    numbers = values.flatten().tolist()
    return math.sqrt(sum(number * number for number in numbers) / len(numbers))


def test_norms_of_inputs_one_by_one() -> None:
    model, data, inputs = case()
    parameters = dict(model.named_parameters())
    found = measured("wanda", model, parameters, data)["input_norm"]
    for out in range(6):
        for channel in range(4):
            expected = root_mean_square(inputs["conv"][:, channel])
            assert found["conv.weight"][out, channel].flatten().tolist() == pytest.approx(
                [expected] * 9, rel=1e-6
            )
    for out in range(8):
        for place in range(3):
            expected = root_mean_square(inputs["grouped"][:, place + 3 * (out // 4)])
            assert found["grouped.weight"][out, place].tolist() == pytest.approx([expected] * 2, rel=1e-6)
    for channel in range(8):
        expected = root_mean_square(inputs["linear"][..., channel])
        assert found["linear.weight"][:, channel].tolist() == pytest.approx([expected] * 3, rel=1e-6)
    for name in ("conv.bias", "scale", "unreached.weight"):
        assert torch.equal(found[name], torch.ones(parameters[name].shape))


@pytest.mark.parametrize("amount", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_every_row_loses_the_same_and_its_smallest(amount: float, scope: str) -> None:
    model, data, _ = case()
    cut = secateur.prune(
        model, criterion="wanda", amount=amount, scope=scope, data=data, layers=["linear", "conv"]
    )
    norms = measured("wanda", model, dict(model.named_parameters()), data)["input_norm"]
    for name in ("linear.weight", "conv.weight"):
        carried = (model.get_parameter(name).detach().abs() * norms[name]).flatten(1)
        for kept, sizes in zip(cut.masks[name].flatten(1), carried.tolist(), strict=True):
            gone = sorted(range(len(sizes)), key=sizes.__getitem__)[: round(amount * len(sizes))]
            assert (~kept).nonzero().flatten().tolist() == sorted(gone)


def test_patterns_keep_the_largest_products() -> None:
    model, data, inputs = case()
    cut = secateur.prune(model, granularity="2:4", criterion="wanda", data=data, layers=["linear"])
    norms = [root_mean_square(inputs["linear"][..., channel]) for channel in range(8)]
    for kept, row in zip(cut.masks["linear.weight"].tolist(), model.linear.weight.tolist(), strict=True):
        carried = [abs(weight) * norm for weight, norm in zip(row, norms, strict=True)]
        for start in (0, 4):
            largest = sorted(range(start, start + 4), key=carried.__getitem__)[2:]
            assert [kept[at] for at in range(start, start + 4)] == [
                at in largest for at in range(start, start + 4)
            ]


def test_units_and_uncompared_weights_score_what_they_carry() -> None:
    model, data, _ = case()
    parameters = dict(model.named_parameters())
    quantities = measured("wanda", model, parameters, data)
    for options in ({"granularity": "channel"}, {"compare": "none"}):
        found = score("wanda", parameters, measured=quantities, **options)
        for name, parameter in parameters.items():
            assert torch.equal(found[name], parameter.abs() * quantities["input_norm"][name])


def test_unknown_comparisons_and_data_are_refused() -> None:
    model, data, _ = case()
    with pytest.raises(InputError, match=r"There is no comparison 'column' for wanda: choose row or none\."):
        secateur.prune(model, criterion="wanda", amount=0.5, data=data, compare="column")
    with pytest.raises(InputError, match="The model does not run on the calibration data"):
        secateur.prune(model, criterion="wanda", amount=0.5, data=[(torch.ones(3), None)])


def test_the_model_is_left_alone() -> None:
    model, data, _ = case()
    model.train()
    measured("wanda", model, dict(model.named_parameters()), data)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
