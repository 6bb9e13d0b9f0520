"""Inputs made from a model alone: what they must come near to, and what they must leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, ModelError


class Net(nn.Module):
    """Two convolutions with batch normalisation, the second in a residual stream, and one on features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body, self.body_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.features, self.head = nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu_()
        x = x + self.body_norm(self.body(x)).relu()
        return self.head(self.drop(self.features(x.mean((2, 3)))))


def seen() -> Tensor:
    """Return images of another mean and variance than noise, which are smooth as well."""
    coarse = torch.randn(64, 3, 3, 3, generator=torch.Generator().manual_seed(5))
    return 2 * nn.functional.interpolate(coarse, (8, 8), mode="bilinear") + torch.tensor(
        [0.5, -1.0, 2.0]
    ).view(3, 1, 1)


def remembering(cls: type[nn.Module] = Net) -> nn.Module:
    """Return a model whose running statistics are those of `seen`."""
    torch.manual_seed(0)
    model = cls()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        model.train()(seen())
    return model.eval()


def distance(model: nn.Module, inputs: Any) -> float:
    """Return how far statistics at the normalisations are from those remembered, in float64, by NumPy."""
    total: list[float] = []

    def compare(module: Any, args: tuple[Tensor]) -> None:
        x = args[0].detach().double().numpy()
        axes = tuple(at for at in range(x.ndim) if at != 1)
        for own, kept in ((x.mean(axes), module.running_mean), (x.var(axes), module.running_var)):
            total.append(float(np.sqrt(np.square(own - kept.double().numpy()).sum())))

    hooks = [
        module.register_forward_pre_hook(compare)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return sum(total)


def joined(data: list[tuple[Any, None]]) -> Tensor:
    return torch.cat([inputs for inputs, _ in data])


def test_statistics_come_much_nearer_than_those_of_noise() -> None:
    model, x = remembering(), torch.zeros(1, 3, 8, 8)
    (noise, _), (made, _) = (
        secateur.synthetic_inputs(model, x, samples=32, batch=32, steps=steps)[0] for steps in (0, 80)
    )
    assert distance(model, made) < distance(model, noise) / 5
    channels = made.movedim(1, 0).flatten(1)
    goal = seen().movedim(1, 0).flatten(1).mean(1)
    assert (channels.mean(1) - goal).norm() < goal.norm() / 2


def test_noise_where_there_is_nothing_to_match() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.LayerNorm(6))
    made = joined(secateur.synthetic_inputs(model, torch.zeros(2, 3, 8, 8), samples=200, batch=64, steps=3))
    assert made.shape == (200, 3, 8, 8)
    assert abs(float(made.mean())) < 0.02
    assert abs(float(made.std()) - 1) < 0.02
    assert len(made.flatten(1).unique(dim=0)) == 200


@pytest.mark.parametrize("steps", [0, 3])
def test_seeds_decide(steps: int) -> None:
    model, x = remembering(), torch.zeros(1, 3, 8, 8)
    one, same, other = (
        secateur.synthetic_inputs(model, x, samples=6, batch=4, steps=steps, seed=seed) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True))


def test_the_generators_and_the_model_stay_as_they_were() -> None:
    model = remembering().train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.stem.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    with torch.inference_mode(False):
        secateur.synthetic_inputs(model, torch.zeros(1, 3, 8, 8), samples=4, steps=2)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    grads = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert grads == {"head.weight"}
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert not model.stem.weight.requires_grad
    assert model.body.weight.requires_grad


@pytest.mark.parametrize(("samples", "sizes"), [(5, [4, 1]), (8, [4, 4]), (1, [1])])
def test_batches(samples: int, sizes: list[int]) -> None:
    data = secateur.synthetic_inputs(
        remembering(), torch.zeros(3, 3, 8, 8), samples=samples, batch=4, steps=1
    )
    assert [len(inputs) for inputs, _ in data] == sizes
    assert all(label is None for _, label in data)
    assert not any(inputs.requires_grad for inputs, _ in data)


class Words(nn.Module):
    """A model on token ids with a mask, which looks one of its tensors up through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds, self.up = nn.Embedding(50, 6), nn.Embedding(3, 6), nn.Linear(6, 4)

    def forward(self, ids: Tensor, kinds: Tensor, mask: Tensor, scale: float = 1.0) -> Tensor:
        x = self.words(ids.view(-1, ids.shape[-1])) + self.kinds(kinds)
        return scale * self.up(x) * mask[..., None]


def test_integers_are_drawn_from_what_they_look_up() -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    zeros = torch.zeros(2, 5, dtype=torch.int64)
    example = {"ids": zeros, "kinds": zeros.clone().int(), "mask": mask, "scale": 2.0}
    data = secateur.synthetic_inputs(Words(), example, samples=40, batch=20)
    inputs = data[0][0]
    assert inputs.keys() == example.keys()
    assert [inputs[name].dtype for name in ("ids", "kinds", "mask")] == [
        torch.int64,
        torch.int32,
        torch.int64,
    ]
    assert inputs["scale"] == 2.0
    assert set(inputs["kinds"].unique().tolist()) == {0, 1, 2}
    assert 0 <= int(inputs["ids"].min()) < int(inputs["ids"].max()) < 50
    assert len(inputs["ids"].unique()) > 30
    assert torch.equal(inputs["mask"], mask.repeat(10, 1))
    assert len(torch.cat([each["ids"] for each, _ in data]).unique(dim=0)) == 40


class Two(nn.Module):
    """Normalises one input and hands the other on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_mean.fill_(3.0)
        self.norm.running_var.fill_(4.0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x) + y


def test_of_several_tensors_only_those_that_matter_change() -> None:
    example = (torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.float64))
    (noise, _), (made, _) = (
        secateur.synthetic_inputs(Two(), example, samples=64, steps=steps)[0] for steps in (0, 200)
    )
    assert isinstance(made, tuple)
    assert made[1].dtype == torch.float64
    assert torch.equal(noise[1], made[1])
    torch.testing.assert_close(made[0].mean(0), torch.full((4,), 3.0), atol=0.05, rtol=0)
    torch.testing.assert_close(made[0].var(0, correction=0), torch.full((4,), 4.0), atol=0.1, rtol=0)


def test_half_precision_inputs() -> None:
    model = remembering().bfloat16()
    ((made, _),) = secateur.synthetic_inputs(
        model, torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16), samples=8, steps=3
    )
    assert made.dtype == torch.bfloat16
    assert made.isfinite().all()


def test_a_cut_is_made_up_for_without_data() -> None:
    model, x = remembering(), torch.zeros(1, 3, 8, 8)
    data = secateur.synthetic_inputs(model, x, samples=64, steps=60)
    cut = {"granularity": "channel", "amount": 0.4, "scope": "local"}
    dropped = secateur.prune(model, x, **cut).model
    made_up = secateur.prune(model, x, compensation="reconstruct", data=data, **cut).model
    with torch.no_grad():
        errors = [float((small(seen()) - model(seen())).norm()) for small in (dropped, made_up)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"samples": 2.5}, "samples is 2.5"),
        ({"batch": 0}, "batch is 0"),
        ({"steps": -1}, "steps is -1"),
        ({"steps": True}, "steps is True"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": float("nan")}, "lr is nan"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        secateur.synthetic_inputs(Net(), torch.zeros(1, 3, 8, 8), **options)


def test_bad_models_and_examples() -> None:
    with pytest.raises(InputError, match="batch dimension"):
        secateur.synthetic_inputs(Net(), torch.tensor(1.0))
    with pytest.raises(ModelError, match="does not run"):
        secateur.synthetic_inputs(Net(), torch.zeros(1, 4, 8, 8))
    model = remembering()
    model.body_norm.running_var[0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        secateur.synthetic_inputs(model, torch.zeros(1, 3, 8, 8), samples=4, steps=1)
