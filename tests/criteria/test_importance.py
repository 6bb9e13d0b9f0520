"""The score of a unit is that of all weights that go with it, told by going through them one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from structural_zoo import CASES
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.computed import make_plain
from secateur.core.errors import InputError
from secateur.criteria import CRITERIA
from secateur.graph.groups import Group
from secateur.importance import unit_scores
from secateur.importance.parts import groups_as_used

KINDS = [
    "sequential", "flatten_without_pool", "grouped_conv", "depthwise", "transposed_conv_grouped", "residual_stream",
    "dense_connections", "literal_split", "group_norm", "rms_norm", "bilinear", "conv3d", "packed_swiglu",
    "weight_norm_old", "zero_pad_cat", "repeat", "pixel_shuffle",
]  # fmt: skip


def weights_of(model: nn.Module, group: Group) -> list[list[tuple[str, tuple[int, ...]]]]:
    """Return for each unit the places (name, index) of all weights that go with it, each once."""
    parameters = dict(model.named_parameters())
    places: list[dict[tuple[str, tuple[int, ...]], None]] = [{} for _ in range(group.units)]
    for member in group.members:
        if member.name in parameters:
            for index in itertools.product(*map(range, parameters[member.name].shape)):
                unit = int(member.unit[index[member.dim]])
                if unit >= 0:
                    places[unit][member.name, index] = None
    return [list(each) for each in places]


def by_hand(model: nn.Module, group: Group, worth: Callable[[str, tuple[int, ...]], float]) -> list[float]:
    return [float(np.mean([worth(*place) for place in places])) for places in weights_of(model, group)]


def case_of(name: str) -> tuple[nn.Module, Any, tuple[Group, ...]]:
    case = CASES[name]()
    groups = secateur.analyze(case.model, case.inputs).free
    assert groups
    return case.model.double(), case.inputs, groups


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("name", KINDS)
def test_magnitude_is_the_mean_over_the_weights_of_a_unit(name: str, norm: str) -> None:
    model, _, groups = case_of(name)
    found = unit_scores(model, groups, "magnitude", norm=norm)
    assert list(found) == [group.name for group in groups]
    used = groups_as_used(model, groups)
    make_plain(model)
    parameters = {name: tensor.detach() for name, tensor in model.named_parameters()}
    for group in used:
        expected = by_hand(
            model, group, lambda n, index: abs(float(parameters[n][index])) ** (1 if norm == "l1" else 2)
        )
        assert found[group.name].dtype == torch.float64
        assert found[group.name].tolist() == pytest.approx(expected, rel=1e-12)


def test_l1_is_the_default_and_a_large_weight_counts_more_in_l2() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0], [2.0, 2.0]]))
        model[1].weight.fill_(1.0)
    groups = secateur.analyze(model, torch.ones(1, 2)).free
    assert unit_scores(model, groups, "magnitude")["0.weight"].tolist() == pytest.approx([4 / 3, 5 / 3])
    assert unit_scores(model, groups, "magnitude", norm="l2")["0.weight"].tolist() == pytest.approx(
        [10 / 3, 3.0]
    )


def test_buffers_have_no_say() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    x = torch.randn(1, 3, 2, 2)
    groups = secateur.analyze(model, x).free
    before = unit_scores(model, groups, "magnitude")
    model[1].running_mean.add_(100)
    model[1].running_var.mul_(100)
    torch.testing.assert_close(unit_scores(model, groups, "magnitude"), before, rtol=0, atol=0)


def test_a_narrow_type_is_summed_in_a_wide_one() -> None:
    model = nn.Sequential(nn.Linear(4000, 4, bias=False), nn.Linear(4, 2, bias=False)).half()
    with torch.no_grad():
        model[0].weight.fill_(0.1)
        model[1].weight.fill_(0.1)
    groups = secateur.analyze(model.float(), torch.ones(1, 4000)).free
    scores = unit_scores(model.half(), groups, "magnitude")["0.weight"]
    assert scores.tolist() == pytest.approx([float(torch.tensor(0.1).half())] * 4, rel=1e-9)


@pytest.mark.parametrize(
    "criterion",
    sorted(name for name, each in CRITERIA.items() if "channel" in each.granularities and each.per != "map"),
)
def test_every_criterion_for_units_tells_units_apart(criterion: str) -> None:
    model: nn.Module = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    )
    model = model.double().eval()
    nn.init.uniform_(model[1].weight)  # type: ignore[index, arg-type]
    inputs = torch.randn(2, 3, 6, 6)
    analysed = secateur.analyze(model, inputs.double())
    groups, coupling = analysed.free, analysed.coupling
    data = [(inputs.double(), torch.zeros(len(inputs), dtype=torch.int64))]
    found, again = (
        unit_scores(
            model, groups, criterion, coupling=coupling, example_inputs=inputs.double(), data=data, seed=3
        )
        for _ in range(2)
    )
    for group in groups:
        assert found[group.name].shape == (group.units,)
        assert found[group.name].isfinite().all()
        assert torch.equal(found[group.name], again[group.name])
        assert found[group.name].unique().numel() == group.units


def test_random_depends_on_the_seed() -> None:
    model, _, groups = case_of("sequential")
    one, other = (unit_scores(model, groups, "random", seed=seed) for seed in (0, 1))
    assert all((one[name] != other[name]).all() for name in one)


def loss(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> float:
    """Mean cross-entropy over all samples."""
    with torch.no_grad():
        total = sum(float(F.cross_entropy(model(x), y, reduction="sum")) for x, y in data)
    return total / sum(len(y) for _, y in data)


class Classifier(nn.Module):
    """Convolution, normalisation, attention and a frozen layer, smooth everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 4, 1)
        self.norm = nn.BatchNorm1d(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, dropout=0.5)
        self.head = nn.Linear(4, 3)
        self.head.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.stem(x))).transpose(1, 2)
        return self.head(self.attention(h, h, h)[0].mean(1))


def test_taylor_is_weight_times_slope_of_the_loss() -> None:
    torch.manual_seed(0)
    model = Classifier().double().eval()
    with torch.no_grad():
        model.norm.running_mean.uniform_()
    data = [(torch.randn(n, 2, 3, dtype=torch.float64), torch.randint(3, (n,))) for n in (4, 1, 2)]
    groups = secateur.analyze(model, data[0][0]).free
    assert any(group.heads for group in groups)
    found = unit_scores(model, groups, "taylor", data=data)
    parameters = {name: tensor.detach() for name, tensor in model.named_parameters()}
    slopes: dict[tuple[str, tuple[int, ...]], float] = {}

    def worth(name: str, index: tuple[int, ...]) -> float:
        if (name, index) not in slopes:
            value, step = float(parameters[name][index]), 1e-5
            sides = []
            for sign in (1, -1):
                parameters[name][index] = value + sign * step
                sides.append(loss(model, data))
            parameters[name][index] = value
            slopes[name, index] = abs(value * (sides[0] - sides[1]) / (2 * step))
        return slopes[name, index]

    for group in groups:
        assert found[group.name].tolist() == pytest.approx(by_hand(model, group, worth), rel=1e-6, abs=1e-10)
        assert (found[group.name] > 0).all()


def test_taylor_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = Classifier().train()
    data = [(torch.randn(4, 2, 3), torch.randint(3, (4,)))]
    loss_before = F.cross_entropy(model.eval()(data[0][0]), data[0][1])
    loss_before.backward()
    model.train()
    model.norm.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = {
        name: tensor.grad.clone() for name, tensor in model.named_parameters() if tensor.grad is not None
    }
    modes = [module.training for module in model.modules()]
    groups = secateur.analyze(model, data[0][0]).free
    unit_scores(model, groups, "taylor", data=data)
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    kept = {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}
    torch.testing.assert_close(kept, grads, rtol=0, atol=0)
    assert [module.training for module in model.modules()] == modes
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {"head.weight", "head.bias"}


def test_what_the_loss_does_not_feel_goes_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        model[2].weight[:, 2] = 0
        model[0].weight[2] = 0
        model[0].bias[2] = 0
    data = [(torch.randn(8, 4), torch.randint(3, (8,)))]
    result = secateur.prune(
        model, data[0][0], granularity="channel", criterion="taylor", amount=1 / 6, scope="local", data=data
    )
    assert result.plan.kept["0.weight"][0].tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("criterion", "options", "words"),
    [
        ("taylor", {}, "The criterion taylor needs the gradient on some data"),
        ("taylor", {"data": []}, "The data holds no batch"),
        ("magnitude", {"norm": "l7"}, "There is no norm 'l7' for magnitude: choose l1 or l2"),
        ("magnitude", {"power": 2}, "The criterion magnitude has no option 'power'"),
        ("magnitute", {}, "There is no criterion named 'magnitute': did you mean magnitude"),
    ],
)
def test_what_makes_no_sense_is_refused(criterion: str, options: dict[str, Any], words: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    groups = secateur.analyze(model, torch.ones(1, 4)).free
    with pytest.raises(InputError) as error:
        unit_scores(model, groups, criterion, **options)
    assert str(error.value).startswith(words)


class Carried(nn.Module):
    """A state that is carried on: the same units are written and read by one tensor, in two or three dimensions."""

    def __init__(self, carry: nn.Module) -> None:
        super().__init__()
        self.read, self.carry, self.head = nn.Linear(2, 4), carry, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.read(x).tanh()
        return self.head(h + (self.carry(h, h) if isinstance(self.carry, nn.Bilinear) else self.carry(h)))


@pytest.mark.parametrize("carry", [nn.Linear(4, 4), nn.Bilinear(4, 4, 4)], ids=["matrix", "cube"])
def test_a_weight_that_goes_with_a_unit_twice_is_one_weight(carry: nn.Module) -> None:
    torch.manual_seed(0)
    model = Carried(carry).double()
    (group,) = secateur.analyze(model, torch.ones(4, 2).double()).free
    assert sum(member.name == "carry.weight" for member in group.members) == carry.weight.ndim
    parameters = {name: tensor.detach() for name, tensor in model.named_parameters()}
    expected = by_hand(model, group, lambda name, index: abs(float(parameters[name][index])))
    found = unit_scores(model, [group], "magnitude")[group.name]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_small_weights_of_a_narrow_type_are_told_apart_by_l2() -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).half()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2e-4], [1e-4], [3e-4]]).expand(3, 4))
        model[1].weight.zero_()
    groups = secateur.analyze(model, torch.ones(1, 4).half()).free
    scores = unit_scores(model, groups, "magnitude", norm="l2")["0.weight"]
    assert scores.argsort().tolist() == [1, 0, 2]
    assert scores.min() > 0
