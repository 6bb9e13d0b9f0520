"""Criteria from derivatives against their definitions: one sample, one weight, one unit at a time, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.errors import InputError
from secateur.criteria import measured, score
from secateur.importance import unit_scores


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 2),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    ).double()


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 2, 3, 3, generator=generator, dtype=torch.float64),
            torch.randint(3, (size,), generator=generator),
        )
        for size in sizes
    ]


def loss(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    total = torch.stack([F.cross_entropy(model(x), y, reduction="sum") for x, y in data]).sum()
    return total / sum(len(y) for _, y in data)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.ndim > 1}


@pytest.mark.parametrize("sizes", [(7,), (3, 4), (1, 1, 5)])
def test_fisher_squares_the_gradient_of_each_sample(sizes: tuple[int, ...]) -> None:
    model, data = net().eval(), batches(*sizes)
    tensors = weights_of(model)
    found = measured("fisher", model, tensors, data)["squared_gradient"]
    by_hand = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    for x, y in data:
        for row, label in zip(x, y, strict=True):
            model.zero_grad()
            F.cross_entropy(model(row[None]), label[None]).backward()  # type: ignore[no-untyped-call]
            for name, tensor in tensors.items():
                assert tensor.grad is not None
                by_hand[name] += tensor.grad**2 / sum(sizes)
    model.zero_grad()
    torch.testing.assert_close(found, by_hand, rtol=1e-10, atol=0)
    scores = score("fisher", tensors, measured={"squared_gradient": found})
    torch.testing.assert_close(scores, {n: 0.5 * tensors[n].detach() ** 2 * by_hand[n] for n in tensors})


def true_diagonal(model: nn.Module, data: list[tuple[Tensor, Tensor]], tensor: Tensor) -> Tensor:
    """Second derivative along each weight by central differences of the loss."""
    step, flat, found = 1e-4, tensor.data.view(-1), []
    with torch.no_grad():
        middle = float(loss(model, data))
        for at in range(flat.numel()):
            kept = float(flat[at])
            flat[at] = kept + step
            above = float(loss(model, data))
            flat[at] = kept - step
            below = float(loss(model, data))
            flat[at] = kept
            found.append((above - 2 * middle + below) / step**2)
    return torch.tensor(found, dtype=torch.float64).view(tensor.shape)


def test_hutchinson_comes_to_the_diagonal_of_the_hessian() -> None:
    model, data = net().eval(), batches(4, 3)
    tensors = {"6.weight": model.get_parameter("6.weight")}
    truth = true_diagonal(model, data, tensors["6.weight"])
    errors = {
        draws: float(
            (measured("obd", model, tensors, data, draws=draws)["hessian_diagonal"]["6.weight"] - truth)
            .abs()
            .mean()
        )
        for draws in (4, 1024)
    }
    assert errors[1024] < 0.1 * float(truth.abs().mean())
    assert errors[1024] < errors[4]


def test_hutchinson_is_exact_where_the_hessian_is_diagonal() -> None:
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(1.0, 7).view(2, 3).double())

        def forward(self, x: Tensor) -> Any:
            return type("Out", (), {"loss": (x[0] * self.weight**4).sum(), "logits": x})()

    model, curves = Squares(), torch.rand(1, 2, 3, dtype=torch.float64)
    found = measured("obd", model, {"weight": model.weight}, [(curves, None)], draws=1)["hessian_diagonal"][
        "weight"
    ]
    torch.testing.assert_close(found, 12 * curves[0] * model.weight.detach() ** 2)


def test_the_same_seed_draws_the_same_signs() -> None:
    model, data = net(), batches(4)
    one, again, other = (
        measured("obd", model, weights_of(model), data, seed=seed)["hessian_diagonal"]["0.weight"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("power", [1, 2])
def test_joint_taylor_is_the_slope_of_the_loss_as_a_unit_fades(power: int) -> None:
    model, data = net().eval(), batches(4, 2)
    found = unit_scores(
        model, secateur.analyze(model, data[0][0]).free, "joint_taylor", data=data, power=power
    )
    places = {  # every weight of the units of the two groups
        "0.weight": [("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("1.bias", 0), ("4.weight", 1)],
        "4.weight": [("4.weight", 0), ("4.bias", 0), ("6.weight", 1)],
    }
    for group, members in places.items():
        for unit in range(len(found[group])):
            expected = 0.0
            for x, y in data:
                slopes = [slope(model, [(x, y)], members, unit, step) for step in (1e-5, -1e-5)]
                expected += len(y) * abs((slopes[0] - slopes[1]) / 2e-5) ** power / 6
            assert float(found[group][unit]) == pytest.approx(expected, rel=1e-6)


def slope(
    model: nn.Module,
    data: list[tuple[Tensor, Tensor]],
    members: list[tuple[str, int]],
    unit: int,
    step: float,
) -> float:
    """Return the loss with all weights of a unit scaled by 1 + step."""
    kept = {name: model.get_parameter(name).data.clone() for name, _ in members}
    with torch.no_grad():
        for name, dim in members:
            tensor = model.get_parameter(name)
            width = 4 if name == "4.weight" and dim == 1 else 1  # a channel is four features after flattening
            tensor.narrow(dim, unit * width, width).mul_(1 + step)
        value = float(loss(model, data))
        for name, tensor in kept.items():
            model.get_parameter(name).data.copy_(tensor)
    return value


def test_joint_taylor_needs_data_and_a_power_it_knows() -> None:
    model, data = net(), batches(2)
    groups = secateur.analyze(model, data[0][0]).free
    with pytest.raises(InputError, match="joint_taylor needs the gradient on some data"):
        unit_scores(model, groups, "joint_taylor")
    with pytest.raises(InputError, match="The power is 3: give 1 for absolute values or 2 for squares"):
        unit_scores(model, groups, "joint_taylor", data=data, power=3)
    with pytest.raises(InputError, match="The data holds no batch"):
        unit_scores(model, groups, "joint_taylor", data=[])
