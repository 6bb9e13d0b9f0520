"""Models in training mode: tensors that move whenever they are read stay as they are, and cuts hold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm

import secateur

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Decaying(nn.Module):
    """Scales a weight by a number that falls each time it is asked for in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        if self.training:
            self.scale.mul_(0.9)
        return weight * self.scale


def decaying(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Decaying())
    return layer


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by hooks": spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "a parametrisation of somebody's": decaying,
}


def discriminator(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        wrap(nn.Conv2d(3, 8, 3, 2, 1)),
        nn.LeakyReLU(0.2),
        wrap(nn.Conv2d(8, 12, 3, 2, 1)),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        wrap(nn.Linear(48, 1)),
    )


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", WRAPPERS)
def test_what_moves_in_training_stays_in_a_cut(name: str, training: bool, inplace: bool) -> None:
    model = discriminator(WRAPPERS[name]).train(training)
    before = copy.deepcopy(model.state_dict())
    result: Any = secateur.prune(model, X, granularity="channel", amount=0.5, scope="local", inplace=inplace)
    assert result.verification.error < 1e-9
    assert all(module.training == training for module in result.model.modules())
    if not inplace:
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    for key, tensor in result.model.state_dict().items():
        whole = before[key]
        for dim, stay in result.plan.kept.get(key, {}).items():
            whole = whole.index_select(dim, stay)
        torch.testing.assert_close(tensor, whole, msg=key) if key in result.plan.kept else None
        assert tensor.shape == whole.shape
    assert result.model.train()(X).shape == (2, 1)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_a_cut_without_gradients_around_it_is_the_same(mode: Callable[[], Any], granularity: str) -> None:
    model = discriminator(lambda layer: layer)
    plain = secateur.prune(model, X, granularity=granularity, amount=0.5).model
    with mode():
        inside = secateur.prune(model, X, granularity=granularity, amount=0.5).model
    for one, other in zip(plain.parameters(), inside.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert other.requires_grad
    inside(X).sum().backward()
    assert all(parameter.grad is not None for parameter in inside.parameters())
