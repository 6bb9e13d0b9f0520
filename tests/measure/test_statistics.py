from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.prune import L1Unstructured, global_unstructured

from secateur.core.errors import InputError, ModelError
from secateur.measure import statistics
from secateur.pruning.api import prune
from secateur.sparsity.masks import Masks


def test_counts_of_a_small_network() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Linear(4, 5, bias=False))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    with torch.no_grad():
        model[0].weight[1] = 0  # a dead output channel
        model[0].bias[0] = 0
        model[2].weight[:, 2] = 0  # a dead input
        model[2].weight[0, 0] = -0.0
    found = statistics(model)
    conv, bias, linear = found.tensors
    assert [row.name for row in found.tensors] == ["0.weight", "0.bias", "2.weight"]
    assert [row.kind for row in found.tensors] == ["Conv2d", "Conv2d", "Linear"]
    assert (conv.shape, conv.parameters, conv.nonzero, conv.units) == ((3, 2, 2, 2), 24, 16, 3)
    assert (conv.dead_units, conv.dead_inputs, conv.sparsity) == (1, 0, pytest.approx(1 / 3))
    assert (bias.parameters, bias.nonzero, bias.units, bias.dead_units, bias.dead_inputs) == (3, 2, 0, 0, 0)
    assert (linear.nonzero, linear.units, linear.dead_units, linear.dead_inputs) == (14, 5, 0, 1)
    assert (found.parameters, found.nonzero, found.pruned) == (47, 32, 0)
    assert found.sparsity == 1 - 32 / 47
    assert (found.dead_units, found.dead_inputs) == (1, 1)


class LeNet(nn.Module):
    """The network of torch's pruning tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)


def test_sparsities_of_weights_are_those_that_torchs_tutorial_prints() -> None:
    torch.manual_seed(0)
    by_torch, model = LeNet(), LeNet()
    model.load_state_dict(by_torch.state_dict())
    layers = [each for each in by_torch.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    global_unstructured([(each, "weight") for each in layers], L1Unstructured, amount=0.2)
    found = statistics(prune(model, amount=0.2).model)
    printed = [float((each.weight == 0).sum()) / each.weight.nelement() for each in layers]
    zeros, entries = sum(int((e.weight == 0).sum()) for e in layers), sum(e.weight.nelement() for e in layers)
    weights = [row for row in found.tensors if row.role == "weights"]
    assert [row.sparsity for row in weights] == pytest.approx(printed, abs=1e-12)
    assert (found.weights, found.weights_nonzero) == (entries, entries - zeros)
    assert found.weight_sparsity == 1 - (entries - zeros) / entries == pytest.approx(0.2, abs=1e-4)
    assert found.sparsity < found.weight_sparsity  # the biases are not cut


def test_biases_normalisations_and_embeddings_are_no_weights() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.LayerNorm(3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[1].weight.fill_(1)
    found = statistics(model)
    assert [row.role for row in found.tensors] == [
        "embeddings",
        "weights",
        "biases",
        *["norms"] * 2,
        *["norms"] * 2,
    ]
    assert (found.weights, found.weight_sparsity) == (12, 0.0)
    assert statistics(nn.LayerNorm(3)).weight_sparsity == 0.0
    assert found.to_json()["weight_sparsity"] == 0.0


GROUPED = [
    nn.Conv2d(6, 4, 3, groups=2),
    nn.Conv1d(6, 6, 3, groups=6),
    nn.ConvTranspose2d(6, 4, 3, groups=2),
    nn.ConvTranspose1d(3, 5, 2),
    nn.Conv3d(2, 3, 2),
]


@pytest.mark.parametrize("layer", GROUPED, ids=str)
def test_dead_channels_are_those_that_do_nothing(layer: nn.Module) -> None:
    """A unit is dead when its output is always zero, an input when no output changes with it."""
    layer = type(layer)(
        layer.in_channels, layer.out_channels, layer.kernel_size, groups=layer.groups, bias=False
    ).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight.abs_().add_(0.1)
        flat = layer.weight.flatten(2)
        flat[torch.rand(flat.shape[:2], generator=generator) < 0.6] = 0
        layer.weight.copy_(flat.view_as(layer.weight))
    (row,) = statistics(layer).tensors
    example = torch.ones(1, layer.in_channels, *[4] * len(layer.kernel_size), dtype=torch.float64)
    output = layer(example)
    alone = torch.eye(layer.in_channels, dtype=torch.float64)
    each = layer(alone.view(*alone.shape, *[1] * len(layer.kernel_size)) * example)
    assert row.units == layer.out_channels
    assert row.dead_units == (output.flatten(2).abs().sum(2) == 0).sum()
    assert row.dead_inputs == (each.flatten(1).abs().sum(1) == 0).sum()
    assert row.dead_units + row.dead_inputs > 0


def test_masks() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[0] = False
    mask[1, 1] = False
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = statistics(model, {"0.weight": mask})
    assert [row.pruned for row in found.tensors] == [5, 0, 0, 0]
    assert [row.nonzero for row in found.tensors] == [7, 3, 6, 2]
    assert (found.pruned, found.dead_units) == (5, 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert statistics(model, Masks({"0.weight": mask})) == found
    with pytest.raises(InputError, match="does not have"):
        statistics(model, {"2.weight": mask})
    with pytest.raises(InputError, match="belong to another model"):
        statistics(model, {"0.weight": mask.t()})


def test_tied_parameters_count_once() -> None:
    model = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 7, bias=False))
    model[1].weight = model[0].weight
    found = statistics(model)
    assert [(row.name, row.kind, row.units) for row in found.tensors] == [("0.weight", "Embedding", 7)]
    assert found.parameters == 21


def test_models_without_parameters_or_values() -> None:
    assert statistics(nn.ReLU()).sparsity == 0.0
    with pytest.raises(ModelError, match=r"^weight has no values yet"):
        statistics(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ModelError, match="no values yet"):
        statistics(nn.LazyLinear(2))


def test_json() -> None:
    found = statistics(nn.Linear(2, 3))
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert value["parameters"] == 9
    assert value["tensors"][0]["shape"] == [3, 2]
    assert value["tensors"][0]["sparsity"] == 0.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6))
def test_dead_rows_and_columns(alive: list[list[bool]]) -> None:
    layer = nn.Linear(3, len(alive), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(alive))
    (row,) = statistics(layer).tensors
    assert row.nonzero == sum(map(sum, alive))
    assert row.dead_units == sum(not any(unit) for unit in alive)
    assert row.dead_inputs == sum(not any(unit[i] for unit in alive) for i in range(3))
