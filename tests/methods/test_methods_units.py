"""Methods of units and blocks: group lasso, growing regularisation, LayerDrop."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from method_runs import Net, advance, batch, begin, fresh, optimizer_of
from torch import Tensor, nn
from torch.nn import functional

import secateur
from secateur import InputError, ModelError
from secateur.methods import start
from secateur.methods.base import MethodJob
from secateur.methods.units import Units


class Conv(nn.Module):
    """Two convolutions with a normalisation, then a linear layer that reads flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.two = nn.Conv2d(5, 3, 1)
        self.head = nn.Linear(3 * 4, 4)

    def forward(self, maps: Tensor) -> Tensor:
        return self.head(functional.relu(self.two(functional.relu(self.norm(self.one(maps))))).flatten(1))


MAPS = torch.ones(2, 2, 2, 2)


def units_by_hand(model: Conv) -> dict[str, list[Tensor]]:
    """Every weight that goes with each channel, by looking at the code above."""
    one = [
        [
            model.one.weight[u],
            model.one.bias[u],
            model.norm.weight[u],
            model.norm.bias[u],
            model.two.weight[:, u],
        ]
        for u in range(5)
    ]
    two = [
        [model.two.weight[u], model.two.bias[u], model.head.weight[:, 4 * u : 4 * u + 4]] for u in range(3)
    ]
    groups = {"one.weight": one, "two.weight": two}
    return {
        name: [torch.cat([part.flatten() for part in unit]) for unit in units]
        for name, units in groups.items()
    }


def test_the_penalty_of_group_lasso_is_its_formula_and_so_is_its_gradient() -> None:
    torch.manual_seed(0)
    model = Conv().double()
    method = start(
        "group_lasso", model, optimizer_of(model), steps=1, strength=0.3, example_inputs=MAPS.double()
    )
    units = [weights for group in units_by_hand(model).values() for weights in group]
    expected = 0.3 * sum(math.sqrt(len(weights)) * float(weights.detach().norm()) for weights in units)
    penalty = method.penalty()
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-12)
    penalty.backward()
    unit = units_by_hand(model)["one.weight"][2].detach()
    by_definition = 0.3 * math.sqrt(len(unit)) * model.one.weight[2].detach() / unit.norm()
    assert torch.allclose(model.one.weight.grad[2], by_definition)


def test_a_unit_of_zeros_has_no_slope() -> None:
    model = fresh()
    method = begin("group_lasso", model, optimizer_of(model))
    for parameter in model.parameters():
        parameter.data.zero_()
    method.penalty().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_group_lasso_shrinks_units_and_cuts_the_smallest() -> None:
    norms = []
    for strength in (0.0, 0.02):
        model = fresh()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        method = begin("group_lasso", model, optimizer, strength=strength, amount=0.5, scope="local")
        advance(model, optimizer, method)
        norms.append(sum(float(square.detach().sqrt().sum()) for square in method.units.squares().values()))
    assert norms[1] < 0.95 * norms[0]
    before = {name: square.detach() for name, square in method.units.squares().items()}
    masks = method.finish()
    for name, square in method.units.squares().items():
        lowest = before[name].argsort()[: round(0.5 * len(square))]
        assert not square[lowest].any()
    for parameter, mask in masks.of(model):
        assert not parameter[~mask].any()


@pytest.mark.parametrize("name", ["group_lasso", "growing"])
def test_what_was_cut_is_what_pruning_channels_takes_out(name: str) -> None:
    """A model with units of zeros computes what the smaller one does, which has the same of them left."""
    torch.manual_seed(0)
    model = Conv()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    method = start(name, model, optimizer, steps=5, amount=0.4, scope="local", example_inputs=MAPS)
    for step in range(5):
        optimizer.zero_grad()
        inputs = torch.randn(8, 2, 2, 2, generator=torch.Generator().manual_seed(step))
        (functional.cross_entropy(model(inputs), torch.arange(8) % 4) + method.penalty()).backward()
        optimizer.step()
    method.finish()
    small = secateur.prune(model, MAPS, granularity="channel", amount=0.4, scope="local").model
    inputs = torch.randn(8, 2, 2, 2)
    torch.testing.assert_close(small.eval()(inputs), model.eval()(inputs))
    assert small.one.weight.shape[0] == 3
    assert small.two.weight.shape[0] == 2


@pytest.mark.parametrize("name", ["group_lasso", "growing"])
def test_the_amount_counts_units_and_the_masks_their_weights(name: str) -> None:
    layers = [nn.Linear(4, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    masks = start(name, model, optimizer, steps=0, amount=0.5, example_inputs=torch.ones(1, 4)).finish()
    assert [masks[f"{at}.weight"].double().mean() for at in range(3)] == [0.5, 0.25, 0.5]


def test_growing_regularisation_adds_a_weight_decay_that_grows() -> None:
    """Without another gradient, θ ← θ (1 − η λ_t) for what was chosen, and nothing for the rest."""
    torch.manual_seed(0)
    model = Conv().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = start(
        "growing",
        model,
        optimizer,
        steps=20,
        amount=0.4,
        limit=2.0,
        every=2,
        end=0.5,
        example_inputs=MAPS.double(),
    )
    norms = {
        n: [float(u.detach().square().mean()) for u in units] for n, units in units_by_hand(model).items()
    }
    going = {name: np.argsort(values)[: round(0.4 * len(values))] for name, values in norms.items()}
    assert {len(units) for units in going.values()} == {2, 1}
    expected = model.one.weight.detach().clone()
    chosen = torch.zeros(5, dtype=torch.bool)
    chosen[torch.from_numpy(going["one.weight"].copy())] = True
    for step in range(20):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        expected[chosen] *= 1 - 0.1 * 2.0 * min(1.0, (step - step % 2) / 10)
        assert torch.allclose(model.one.weight, expected, atol=1e-14)
    masks = method.finish()
    assert torch.equal(masks["one.weight"].flatten(1).any(1), ~chosen)
    assert torch.equal(masks["two.weight"].flatten(2).any(2).any(0), ~chosen)


def test_units_know_what_is_to_be_left_alone() -> None:
    model = Net()
    optimizer = optimizer_of(model)
    with pytest.raises(InputError, match="needs example inputs"):
        start("growing", model, optimizer, steps=1, amount=0.5)
    whole, some, rest = (
        begin("growing", model, optimizer_of(model), **more)
        for more in ({}, {"layers": "blocks.1.inner"}, {"keep": "stem"})
    )
    assert len(some.units.groups) < len(whole.units.groups)
    assert "stem.weight" not in rest.finish()
    with pytest.raises(ModelError, match="no channels, heads or features"):
        begin("growing", model, optimizer, keep="*")
    with pytest.raises(InputError, match="No layer with parameters matches 'nothing'"):
        begin("growing", model, optimizer, keep="nothing")


def test_layerdrop_leaves_blocks_out_as_if_they_were_not_there() -> None:
    model = fresh().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.0
    plain = copy.deepcopy(model)
    method = begin("layerdrop", model, optimizer_of(model), rate=0.4)
    assert [block.path for block in method.blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    counts = torch.zeros(3)
    inputs = batch(0)[0]
    for step in range(300):
        method.clock.step = step
        dropped = torch.tensor([forward.drops for forward in method._forwards])
        counts += dropped
        if step < 12:
            hidden = plain.stem(inputs)
            for block, gone in zip(plain.blocks, dropped.tolist(), strict=True):
                hidden = hidden if gone else block(hidden)
            assert torch.equal(model(inputs), plain.head(hidden))
    assert counts.sum() / 900 == pytest.approx(0.4, abs=0.06)
    assert not torch.equal(counts, counts[:1].expand(3))
    assert torch.equal(model.eval()(inputs), plain.eval()(inputs))
    assert len(method.finish()) == 0


def test_layerdrop_follows_copies_of_the_model() -> None:
    """A moving average holds a deep copy: its blocks are its own."""
    model = fresh()
    method = begin("layerdrop", model, optimizer_of(model))
    twin = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    assert twin(batch(0)[0]).any()
    method.remove()


def test_layerdrop_says_what_it_needs() -> None:
    layer = nn.Sequential(nn.Linear(10, 4))
    with pytest.raises(ModelError, match="no residual block"):
        start("layerdrop", layer, optimizer_of(layer), steps=1, example_inputs=torch.ones(2, 10))
    model = fresh()
    method = begin("layerdrop", model, optimizer_of(model), keep="blocks.0")
    assert [block.path for block in method.blocks] == ["blocks.1", "blocks.2"]


def test_unit_sizes_count_every_weight() -> None:
    model = Conv()
    job = MethodJob(
        "x", model, optimizer_of(model), 1, 0.5, ("weights",), (), (), secateur.Masks({}), MAPS, 0
    )
    sizes = Units(job).sizes
    assert {name: size.tolist() for name, size in sizes.items()} == {
        name: [float(len(unit)) for unit in units] for name, units in units_by_hand(model).items()
    }
