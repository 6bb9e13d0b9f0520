"""Criteria of whole units against their definitions, computed one by one in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_by_hand import HEADS, WIDTH, ByHand
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.errors import InputError, ModelError
from secateur.criteria import CRITERIA
from secateur.importance import NORMALIZATIONS, REDUCTIONS, unit_scores
from secateur.pruning.result import Pruned


def small() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 2),
    )
    nn.init.uniform_(model[1].weight, -1, 1)  # type: ignore[arg-type]
    return model.double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64)


def scores(criterion: str, **options: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    model, x = small()
    return model, unit_scores(model, secateur.analyze(model, x).free, criterion, **options)


@pytest.mark.parametrize(("distance", "p"), [("l2", 2), ("l1", 1)])
def test_fpgm_sums_the_distances_to_all_other_filters(distance: str, p: int) -> None:
    model, found = scores("fpgm", distance=distance)
    filters = [list(map(float, f.flatten())) for f in model[0].weight.detach()]  # type: ignore[index]
    by_hand = [
        sum(sum(abs(a - b) ** p for a, b in zip(one, other, strict=True)) ** (1 / p) for other in filters)
        for one in filters
    ]
    assert found["0.weight"].tolist() == pytest.approx(by_hand, rel=1e-12)


def test_fpgm_by_cosine() -> None:
    model, found = scores("fpgm", distance="cosine")
    filters = model[3].weight.detach().flatten(1)  # type: ignore[index, operator, union-attr]
    by_hand = [sum(1 - float(F.cosine_similarity(a, b, dim=0)) for b in filters) for a in filters]
    assert found["3.weight"].tolist() == pytest.approx(by_hand, rel=1e-10)


def test_fpgm_finds_the_filter_that_others_replace() -> None:
    model, x = small()
    with torch.no_grad():
        model[0].weight[2] = (model[0].weight[1] + model[0].weight[3]) / 2  # type: ignore[index, operator]
    found = unit_scores(model, secateur.analyze(model, x).free, "fpgm")
    assert int(found["0.weight"].argmin()) == 2


def test_an_unknown_distance_is_refused() -> None:
    with pytest.raises(InputError, match=r"There is no distance 'l3' for fpgm: choose l2, l1 or cosine\."):
        scores("fpgm", distance="l3")


def test_linf_is_the_largest_weight_of_each_filter() -> None:
    model, found = scores("linf")
    assert found["3.weight"].tolist() == [
        max(map(abs, f.flatten().tolist())) for f in model[3].weight.detach()
    ]  # type: ignore[index, operator, union-attr]


def test_bn_scale_is_the_normalisations_and_leaves_other_layers_alone() -> None:
    model, found = scores("bn_scale")
    assert found.keys() == {"0.weight"}
    assert found["0.weight"].tolist() == model[1].weight.abs().tolist()  # type: ignore[index, operator, union-attr]
    _, x = small()
    result = secateur.prune(model, x, granularity="channel", criterion="bn_scale", amount=0.6)
    assert (result.model[0].out_channels, result.model[3].out_channels) == (2, 4)  # type: ignore[index, union-attr]


def test_bn_scale_without_any_normalisation_says_so() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ModelError, match="The criterion bn_scale finds nothing to look at in any group"):
        secateur.prune(model, torch.ones(1, 3), granularity="channel", criterion="bn_scale", amount=0.5)


def test_lamp_of_filters_by_explicit_sorting() -> None:
    model, found = scores("lamp")
    energies = [float((f**2).sum()) for f in model[0].weight.detach()]  # type: ignore[index, operator, union-attr]
    by_hand = [energy / sum(other for other in energies if other >= energy) for energy in energies]
    assert found["0.weight"].tolist() == pytest.approx(by_hand, rel=1e-12)
    assert found["0.weight"].max() == 1


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions_of_l1_against_their_definitions(reduction: str) -> None:
    model, found = scores("magnitude", reduction=reduction)
    tensors = [
        (model[0].weight.flatten(1).T), model[0].bias[None], model[1].weight[None], model[1].bias[None],  # type: ignore[index, operator, union-attr]
        model[3].weight.transpose(0, 1).flatten(1).T,  # type: ignore[index, operator, union-attr]
    ]  # fmt: skip
    sums, sizes = [t.abs().sum(0) for t in tensors], [len(t) for t in tensors]
    means = [s / n for s, n in zip(sums, sizes, strict=True)]
    by_hand = {
        "sum": sum(sums),
        "mean": sum(sums) / sum(sizes),
        "max": torch.stack(means).max(0).values,
        "first": means[0],
    }[reduction]
    torch.testing.assert_close(found["0.weight"], by_hand.detach(), rtol=1e-12, atol=0)  # type: ignore[union-attr]


class ReadsFirst(nn.Module):
    """Tensors registered before the one that makes the units: one reads them, one scales and one shifts them."""

    def __init__(self, makes_by: str) -> None:
        super().__init__()
        self.reads = nn.Parameter(torch.randn(8, 3))
        self.scale, self.shift = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))
        self.makes_by = makes_by
        shape = {"linear": (8, 4), "raw": (4, 8), "embedding": (4, 8), "conv": (8, 4, 1)}[makes_by]
        self.maker = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        made = {
            "linear": lambda: F.linear(x, self.maker),
            "raw": lambda: x @ self.maker,
            "embedding": lambda: F.embedding(x.argmax(-1), self.maker),
            "conv": lambda: F.conv1d(x[..., None], self.maker)[..., 0],
        }[self.makes_by]()
        return (made * self.scale + self.shift).relu() @ self.reads


@pytest.mark.parametrize("makes_by", ["linear", "raw", "embedding", "conv"])
def test_first_is_the_tensor_that_makes_the_unit_whatever_stands_before_it(makes_by: str) -> None:
    torch.manual_seed(0)
    model = ReadsFirst(makes_by)
    (group,) = [each for each in secateur.analyze(model, torch.randn(2, 4)).free if each.units == 8]
    assert group.members[0].name == "reads"
    found = unit_scores(model, [group], "magnitude", reduction="first")[group.name]
    rows = model.maker if makes_by in ("linear", "conv") else model.maker.T
    torch.testing.assert_close(found, rows.detach().double().abs().flatten(1).mean(1))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_normalizations_divide_each_group(normalization: str) -> None:
    _, plain = scores("magnitude")
    _, found = scores("magnitude", normalization=normalization)
    for name, values in plain.items():
        numbers = values.tolist()
        by = {"none": 1, "mean": sum(numbers) / len(numbers), "max": max(numbers),
              "l2": sum(number**2 for number in numbers) ** 0.5}[normalization]  # fmt: skip
        assert found[name].tolist() == pytest.approx([number / by for number in numbers], rel=1e-12)


@pytest.mark.parametrize(
    "criterion",
    [name for name in CRITERIA if CRITERIA[name].per == "row" and "channel" in CRITERIA[name].granularities],
)
def test_rows_of_transposed_layers_are_their_outputs(criterion: str) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1)).double()
    turned = nn.Sequential(nn.ConvTranspose2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1)).double()
    with torch.no_grad():
        turned[0].weight.copy_(plain[0].weight.transpose(0, 1))
        turned[2].load_state_dict(plain[2].state_dict())
    x = torch.ones(1, 3, 4, 4, dtype=torch.float64)
    one, other = (unit_scores(m, secateur.analyze(m, x).free, criterion) for m in (plain, turned))
    torch.testing.assert_close(list(one.values()), list(other.values()), rtol=1e-12, atol=0)


def test_what_reads_a_unit_is_told_from_what_makes_it() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 8), nn.Linear(8, 6)
            self.norm, self.out = nn.LayerNorm(6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            return self.out(self.norm(h + self.b(F.relu(self.a(h)))))

    groups = secateur.analyze(Residual(), torch.ones(2, 3))
    reads = {(m.name, m.dim): m.reads for group in groups for m in group.members}
    expected = {
        ("stem.weight", 0): False, ("a.weight", 1): True, ("a.weight", 0): False, ("b.weight", 1): True,
        ("b.weight", 0): False, ("norm.weight", 0): False, ("out.weight", 1): True, ("stem.bias", 0): False,
    }  # fmt: skip
    assert {key: reads[key] for key in expected} == expected


@pytest.mark.parametrize(("kind", "transposed"), [(1, False), (1, True), (2, False), (2, True)])
def test_convolutions_read_their_inputs(kind: int, transposed: bool) -> None:
    layer: Any = getattr(nn, f"Conv{'Transpose' * transposed}{kind}d")
    model = nn.Sequential(layer(2, 4, 1), nn.ReLU(), layer(4, 3, 1))
    (group,) = secateur.analyze(model, torch.ones(1, 2, *[5] * kind)).free
    assert {(m.name, m.dim) for m in group.members if m.reads} == {("2.weight", 0 if transposed else 1)}


def test_by_default_the_scale_of_a_group_does_not_matter_to_a_global_cut() -> None:
    model, x = small()
    larger, _ = small()
    with torch.no_grad():
        for name in ("3.weight", "3.bias"):
            larger.get_parameter(name).mul_(1e4)
    kept = [
        secateur.prune(m, x, granularity="channel", amount=0.5, reduction="first", **how).kept["3.weight"]  # type: ignore[arg-type]
        for m in (model, larger)
        for how in ({}, {"normalization": "none"})
    ]
    assert kept[0] == kept[2]
    assert kept[3] > kept[1]


DATED = [name for name, entry in CRITERIA.items() if entry.needs_data]
LABELLED = [name for name in DATED if CRITERIA[name].needs_labels]


def cut_on(criterion: str, trouble: str) -> Pruned:
    """Cut half of a network that has what the criterion looks at, on data with the trouble."""
    granularities = CRITERIA[criterion].granularities
    how = {"granularity": next(kind for kind in ("channel", "head", "weight") if kind in granularities)}
    model, x = small()
    if how["granularity"] == "head":
        model, x = ByHand().double().eval(), torch.randn(2, 5, HEADS * WIDTH, dtype=torch.float64)
    y = torch.zeros(2, dtype=torch.int64)
    data: dict[str, Any] = {
        "none": [(x, y)],
        "empty": [(x[:0], y[:0])],
        "nan": [(x * torch.nan, y)],
        "ignored": [(x, y - 100)],
        "no labels": [(x, None)],
    }
    return secateur.prune(model, x, amount=0.5, criterion=criterion, data=data[trouble], **how)


@pytest.mark.parametrize(
    ("criterion", "trouble"),
    [(name, trouble) for name in DATED for trouble in ("empty", "nan")]
    + [(name, trouble) for name in LABELLED for trouble in ("ignored", "no labels")],
)
def test_data_that_says_nothing_is_refused(criterion: str, trouble: str) -> None:
    with pytest.raises(InputError, match=r"no batch|NaN or infinity|has no labels|Without labels"):
        cut_on(criterion, trouble)


@pytest.mark.parametrize("criterion", sorted(set(DATED) - set(LABELLED)))
@pytest.mark.parametrize("trouble", ["ignored", "no labels"])
def test_labels_that_a_criterion_does_not_look_at_change_nothing(criterion: str, trouble: str) -> None:
    cuts = [cut_on(criterion, each) for each in ("none", trouble)]
    states = [cut.model.state_dict() for cut in cuts]
    assert all(torch.equal(values, states[1][name]) for name, values in states[0].items())
