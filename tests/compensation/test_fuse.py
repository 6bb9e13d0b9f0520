"""Fusion by optimal transport: what it must leave as it was, against definitions computed another way."""

from __future__ import annotations

import copy
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_networks import Network, example, networks
from scipy.optimize import linprog
from structural_zoo import CASES, disturb, run, to_double
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils import _pytree as pytree

import secateur
from secateur.compensation import COMPENSATIONS, Case, transport
from secateur.compensation.codable import Codable
from secateur.core.errors import InputError, MissingExtraError
from secateur.graph.cut import Cut
from secateur.graph.groups import Groups
from secateur.shrink.apply import apply
from secateur.shrink.make import plan_for
from secateur.shrink.mismatch import misfits
from secateur.shrink.plan import named_tensors

EXAMPLES = int(os.environ.get("SECATEUR_EXAMPLES", "30"))
pytest.importorskip("ot")
fuse = COMPENSATIONS["fuse"].function("channel")


def groups_of(model: nn.Module, inputs: Any) -> Groups:
    """Return the groups of a model, locked where its code would not follow."""
    found = secateur.prune(model, inputs, granularity="channel", amount=0.5, scope="local").groups
    assert found is not None
    return found


def reduced(
    model: nn.Module,
    inputs: Any,
    keep: Mapping[str, Tensor],
    scores: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model with the units of `keep`, group → mask, and the others fused into them; and what is told."""
    groups = groups_of(model, inputs)
    chosen = [group for group in groups.free if group.name in keep]
    cut = Cut.of(groups.coupling, [(group, keep[group.name].numpy()) for group in chosen])
    plan, failures = plan_for(model, cut)
    assert not failures
    small = apply(model, plan)
    assert not misfits(small, cut, inputs), "the code does not follow this cut"
    scores = scores or {group.name: torch.rand(group.units) + 0.5 for group in chosen}
    case = Case(model, small, groups.coupling.program, None, 0, False, cut, plan, tuple(chosen), scores)
    return small, fuse(case, **options)


@torch.no_grad()
def twins(model: nn.Module, groups: Groups, seed: int = 0, reader: float = 1.0) -> dict[str, Tensor]:
    """Make pairs of equal units in every group that can be coded, at random places; return one of each pair.

    What reads the second of a pair is `reader` times what reads the first.
    """
    generator, tensors, codable = (
        torch.Generator().manual_seed(seed),
        named_tensors(model),
        Codable(groups.coupling),
    )
    keep: dict[str, Tensor] = {}
    for group in groups.free:
        if group.units % 2 or codable.refused(group):
            continue
        first, second = torch.randperm(group.units, generator=generator).view(2, -1)
        for member in group.members:
            tensor, index = tensors[member.name], torch.stack(member.index)
            part = tensor.index_select(member.dim, index[first].flatten())
            tensor.index_copy_(member.dim, index[second].flatten(), part * (reader if member.reads else 1))
        keep[group.name] = torch.ones(group.units, dtype=torch.bool)
        keep[group.name][second] = False
    return keep


def mixes(groups: Groups, keep: Mapping[str, Tensor]) -> bool:
    """Whether some statistic runs over units of pairs and over others at once: half as many change its weights."""
    labels = groups.coupling.labels
    pairs = np.concatenate([group.roots for group in groups if group.name in keep] or [np.zeros(0, int)])
    twice = [np.isin(labels.find(vector), pairs) for _, vector in groups.coupling.crossed]
    return any(each.any() and not each.all() for each in twice)


def differs(one: Any, two: Any) -> float:
    """Return the largest difference of outputs, as a part of the largest of the first's entries."""
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(two), strict=True)
    return max(
        (
            float((a - b).abs().max() / a.abs().max().clamp(min=1e-12))
            for a, b in pairs
            if isinstance(a, Tensor)
        ),
        default=0.0,
    )


EXACT = ("function_preserving", "energy_preserving")
UNCODED = {
    "tied_transposed": "both makes and reads its units",
    "weight_norm_old": "before it reads its units",
    "weight_norm_parametrised": "before it reads its units",
    "spectral_norm_parametrised": "before it reads its units",
}
"""Models none of whose groups can be coded, and why."""
BOUND = {"lstm_projected": "rnn.weight_ih_l0"}
"""Models with a group that can't become half as large alone: a projection must be smaller than what it projects."""


@pytest.mark.parametrize(("reader", "scaling"), [(1.0, EXACT[0]), (0.7, EXACT[0]), (0.7, EXACT[1])])
@pytest.mark.parametrize("name", [name for name in CASES if name not in UNCODED])
@torch.no_grad()
def test_equal_units_become_one_without_a_trace(name: str, reader: float, scaling: str) -> None:
    case = CASES[name]()
    model, inputs = case.model.double(), to_double(case.inputs)
    keep = twins(model, groups_of(model, inputs), reader=reader)
    keep.pop(BOUND.get(name, ""), None)
    assert keep
    small, told = reduced(model, inputs, keep, scaling=scaling)
    assert told["groups"].keys() == keep.keys()
    assert differs(run(model, inputs), run(small, inputs)) < 1e-9, told


@pytest.mark.parametrize("name", UNCODED)
@torch.no_grad()
def test_a_model_none_of_whose_groups_can_be_coded_is_left_dropped(name: str) -> None:
    case = CASES[name]()
    how: dict[str, Any] = {"granularity": "channel", "amount": 0.5, "scope": "local"}
    dropped, fused = (
        secateur.prune(case.model, case.inputs, compensation=way, **how) for way in ("drop", "fuse")
    )
    assert fused.compensated["groups"] == {}
    assert fused.compensated["left"].keys() == {group.name for group in fused.groups.free}
    assert all(UNCODED[name] in reason for reason in fused.compensated["left"].values())
    assert differs(run(dropped.model, case.inputs), run(fused.model, case.inputs)) == 0


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(networks(), st.integers(0, 99), st.sampled_from([1.0, 0.8]), st.sampled_from(EXACT))
def test_equal_units_of_any_network_become_one_without_a_trace(
    network: Network, seed: int, reader: float, scaling: str
) -> None:
    network, x = network.double(), example(network).double()
    with torch.no_grad():
        groups = groups_of(network, x)
        keep = twins(network, groups, seed, reader)
        assume(not mixes(groups, keep))
        small, told = reduced(network, x, keep, scaling=scaling)
        assert told["groups"].keys() == keep.keys()
        assert differs(network(x), small(x)) < 1e-8, told


class Net(nn.Module):
    """Convolutions with batch scaling, one of them depthwise, in a residual stream, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.first, self.first_norm = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12)
        self.depth, self.depth_norm = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.last, self.last_norm = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        disturb(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        y = self.first_norm(self.first(x)).relu()
        y = self.depth_norm(self.depth(y)).relu()
        return self.head((x + self.last_norm(self.last(y))).mean((2, 3)))


PAIRS = {
    "stem": "stem_norm", "first": "first_norm", "depth": "depth_norm", "last": "last_norm",
}  # fmt: skip


def net() -> tuple[Net, Tensor]:
    torch.manual_seed(0)
    return Net(), torch.randn(4, 3, 8, 8)


def halves(model: nn.Module, x: Any) -> dict[str, Tensor]:
    return {group.name: torch.arange(group.units) % 2 == 0 for group in secateur.analyze(model, x).free}


@torch.no_grad()
def test_equal_units_in_single_precision() -> None:
    model, x = net()
    keep = twins(model, groups_of(model, x), 3, 0.5)
    small, _ = reduced(model, x, keep)
    torch.testing.assert_close(small(x), model(x), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_equal_units_keep_their_normalisation() -> None:
    model, x = net()
    model.first_norm.weight[::3] *= -1
    keep = twins(model.double(), groups_of(model, x.double()), 3)
    small, _ = reduced(model, x.double(), keep)
    mask = keep["first.weight"]
    for name in ("weight", "bias", "running_mean", "running_var"):
        torch.testing.assert_close(getattr(small.first_norm, name), getattr(model.first_norm, name)[mask])


@torch.no_grad()
@pytest.mark.parametrize("scaling", transport.SCALINGS)
def test_normalisations_need_not_be_folded_first(scaling: str) -> None:
    model, x = net()
    model, x = model.double(), x.double()
    model.first_norm.weight[::3] *= -1
    plain = copy.deepcopy(model)
    for conv, norm in PAIRS.items():
        setattr(plain, conv, fuse_conv_bn_eval(getattr(plain, conv), getattr(plain, norm)))
        setattr(plain, norm, nn.Identity())
    torch.testing.assert_close(plain(x), model(x))
    keep = halves(model, x)
    options = {"scaling": scaling}
    one, told = reduced(model, x, keep, **options)
    two, other = reduced(plain, x, keep, **options)
    torch.testing.assert_close(one(x), two(x))
    assert told["groups"]["first.weight"]["cost"] == pytest.approx(other["groups"]["first.weight"]["cost"])


@torch.no_grad()
def test_units_that_differ_in_scale_before_the_normalisation_alone_are_equal() -> None:
    model, x = net()
    model, x = model.double(), x.double()
    model.first_norm.eps = 1e-300
    keep = twins(model, groups_of(model, x))
    second = ~keep["first.weight"]
    for tensor in (model.first.weight, model.first.bias, model.first_norm.running_mean):
        tensor[second] *= 3
    model.first_norm.running_var[second] *= 9
    small, _ = reduced(model, x, keep)
    torch.testing.assert_close(small(x), model(x))


@torch.no_grad()
def test_constant_units_stay_finite_and_the_same() -> None:
    model, x = net()
    keep = twins(model, groups_of(model, x))
    model.first_norm.weight.zero_()
    small, _ = reduced(model, x, keep)
    torch.testing.assert_close(small(x), model(x))
    assert not small.first_norm.weight.any()


@torch.no_grad()
def test_order_of_units_does_not_matter() -> None:
    model, x = net()
    model, x = model.double(), x.double()
    keep = halves(model, x)
    before, _ = reduced(model, x, keep)
    tensors = named_tensors(model)
    for group in secateur.analyze(model, x).free:
        order = torch.randperm(group.units, generator=torch.Generator().manual_seed(1))
        keep[group.name] = keep[group.name][order]
        for member in group.members:
            tensor = tensors[member.name]
            tensor.copy_(tensor.index_select(member.dim, order))
    after, _ = reduced(model, x, keep)
    torch.testing.assert_close(after(x), before(x))


def test_without_a_cut_every_tensor_stays_as_it_is() -> None:
    model, x = net()
    keep = {name: torch.ones_like(mask) for name, mask in halves(model, x).items()}
    small, told = reduced(model, x, keep)
    assert told == {"groups": {}, "left": {}}
    for name, tensor in named_tensors(small).items():
        assert torch.equal(tensor, named_tensors(model)[name]), name


@torch.no_grad()
def test_one_group_leaves_other_tensors_alone() -> None:
    model, x = net()
    mask = torch.arange(12) % 2 == 0
    small, told = reduced(model, x, {"first.weight": mask})
    assert told["groups"]["first.weight"].keys() == {"kept", "of", "cost"}
    assert (told["groups"]["first.weight"]["kept"], told["groups"]["first.weight"]["of"]) == (6, 12)
    touched = {member.name for group in secateur.analyze(model, x) for member in group.members}
    touched &= {n for n in touched if n.startswith(("first", "depth"))} | {"last.weight"}
    for name, tensor in named_tensors(model).items():
        assert torch.equal(named_tensors(small)[name], tensor) == (
            name not in touched or "tracked" in name
        ), name


class Hidden(nn.Module):
    def __init__(self, inputs: int, units: int, outputs: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(inputs, units, bias=False), nn.Linear(units, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


@torch.no_grad()
@pytest.mark.parametrize("copies", [2, 3, 5])
def test_the_reference_makes_outputs_grow_with_n_over_m(copies: int) -> None:
    torch.manual_seed(0)
    model, x = Hidden(6, 4 * copies, 3), torch.randn(7, 6)
    model.up.weight.copy_(model.up.weight[:4].repeat(copies, 1))
    model.down.weight.copy_(model.down.weight[:, :4].repeat(1, copies))
    keep = {"up.weight": torch.arange(4 * copies) < 4}
    small, _ = reduced(model, x, keep)
    grown, _ = reduced(model, x, keep, scaling="reference")
    torch.testing.assert_close(small(x), model(x))
    torch.testing.assert_close(grown(x), copies * model(x))


@torch.no_grad()
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("mass", ["uniform", "importance"])
def test_weights_are_what_the_formula_says_number_by_number(p: int, mass: str) -> None:
    torch.manual_seed(0)
    model, x, kept = Hidden(3, 5, 2).double(), torch.randn(2, 3).double(), [1, 3, 4]
    scores = torch.rand(5).double() + 0.1
    keep = torch.zeros(5, dtype=torch.bool)
    keep[kept] = True
    options = {"p": p, "source": mass, "target_mass": mass}
    small, told = reduced(model, x, {"up.weight": keep}, {"up.weight": scores}, **options)
    up, down = model.up.weight.tolist(), model.down.weight.tolist()
    points = [[*up[u], *(row[u] for row in down)] for u in range(5)]
    norms = [math.sqrt(sum(v * v for v in point)) for point in points]
    points = [[v / norm for v in point] for point, norm in zip(points, norms, strict=True)]
    cost = [
        [sum(abs(a - b) ** p for a, b in zip(point, points[t], strict=True)) ** (1 / p) for t in kept]
        for point in points
    ]
    a = [1 / 5] * 5 if mass == "uniform" else [s / sum(scores.tolist()) for s in scores.tolist()]
    b = [1 / 3] * 3 if mass == "uniform" else [scores[t].item() / sum(scores[kept].tolist()) for t in kept]
    plan = least(np.array(a), np.array(b), np.array(cost)).tolist()
    for place in range(3):
        column = sum(plan[u][place] for u in range(5))
        for i in range(3):
            expected = sum(plan[u][place] / column * up[u][i] for u in range(5))
            assert small.up.weight[place, i].item() == pytest.approx(expected, abs=1e-9)
        for o in range(2):
            expected = sum(down[o][u] * plan[u][place] / sum(plan[u]) for u in range(5))
            assert small.down.weight[o, place].item() == pytest.approx(expected, abs=1e-9)
    total = sum(plan[u][t] * cost[u][t] for u in range(5) for t in range(3))
    assert told["groups"]["up.weight"]["cost"] == pytest.approx(total)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
def test_distances(p: float) -> None:
    x, y = torch.randn(5, 300).double(), torch.randn(3, 300).double()
    expected = torch.stack([(x - point).norm(p, dim=1) for point in y], dim=1)
    torch.testing.assert_close(transport.distances(x, y, p), expected)
    assert not transport.distances(x.float(), x.float(), p).diagonal().any()


def least(a: Any, b: Any, cost: Any) -> Any:
    """Return the plan of least cost by linear programming."""
    n, m = cost.shape
    sums = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    found = linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([a, b]), method="highs")
    return found.x.reshape(n, m)


@pytest.mark.parametrize("seed", range(3))
def test_plans_are_the_least_and_sinkhorn_comes_near(seed: int) -> None:
    import ot

    random = np.random.default_rng(seed)
    cost, a, b = random.random((9, 4)), random.random(9) + 0.1, random.random(4) + 0.1
    a, b = a / a.sum(), b / b.sum()
    given = tuple(torch.from_numpy(each) for each in (a, b, cost))
    plan = transport.exact(*given, 0.0).numpy()
    np.testing.assert_allclose(plan, ot.emd(a, b, cost), atol=1e-12)
    np.testing.assert_allclose((plan * cost).sum(), (least(a, b, cost) * cost).sum(), rtol=1e-9)
    costs = []
    for strength in (1.0, 0.1, 0.01):
        near = transport.sinkhorn(*given, strength).numpy()
        np.testing.assert_allclose(near.sum(1), a, atol=1e-4)
        costs.append(float((near * cost).sum()))
    assert costs[0] > costs[1] > costs[2]
    assert costs[2] == pytest.approx(float((plan * cost).sum()), rel=1e-2)


def test_masses() -> None:
    assert transport.masses(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([0.25, 0.75])
    assert transport.masses(torch.zeros(4)).tolist() == [0.25] * 4
    assert transport.masses(torch.tensor([-1.0, 0.0, 1.0])).tolist() == pytest.approx(
        [0, 1 / 3, 2 / 3], abs=1e-5
    )
    assert transport.masses(torch.tensor([0.0, 1.0]))[0] > 0


@torch.no_grad()
def test_centroids_of_equal_units_are_the_units_though_both_of_a_pair_are_kept() -> None:
    torch.manual_seed(0)
    model, x = Hidden(6, 4, 3), torch.randn(7, 6)
    model.up.weight[2:], model.down.weight[:, 2:] = model.up.weight[:2], model.down.weight[:, :2]
    keep = {"up.weight": torch.tensor([True, False, True, False])}
    small, _ = reduced(model, x, keep, target="cluster")
    torch.testing.assert_close(small(x), model(x))
    small, _ = reduced(model, x, keep)
    assert differs(model(x), small(x)) > 0.01


def encoded(made: Any, plan: Any, kept: list[int]) -> Any:
    """Return what energy-preserving fusion makes of units, one by one."""
    rows = []
    for t, place in enumerate(kept):
        weights = [
            plan[u, t] * max(0.0, row @ made[place] / np.linalg.norm(row) / np.linalg.norm(made[place]))
            for u, row in enumerate(made)
        ]
        row = sum(w * each for w, each in zip(weights, made, strict=True))
        length = sum(w * np.linalg.norm(each) for w, each in zip(weights, made, strict=True)) / sum(weights)
        rows.append(row * length / np.linalg.norm(row))
    return np.stack(rows)


def test_the_energy_preserving_encoder_keeps_the_lengths_of_what_points_the_same_way() -> None:
    random = np.random.default_rng(0)
    made, plan, kept = random.normal(size=(7, 5)), random.random((7, 3)), [1, 4, 6]
    given = torch.from_numpy(plan), torch.from_numpy(made), torch.tensor(kept)
    encoder, decoder = transport.energy_preserving(*given)
    np.testing.assert_allclose((encoder @ given[1]).numpy(), encoded(made, plan, kept), rtol=1e-10)
    torch.testing.assert_close(decoder.sum(1), torch.ones(7, dtype=torch.float64))


@pytest.mark.parametrize("scaling", EXACT)
@pytest.mark.parametrize("keep", [(0, 1, 2, 3), (0, 4, 1, 5), (4, 1, 6, 3)])
def test_equal_units_become_one_by_clusters_too(keep: tuple[int, ...], scaling: str) -> None:
    torch.manual_seed(0)
    made = torch.randn(4, 5, dtype=torch.float64).repeat(2, 1)
    points, kept = torch.nn.functional.normalize(made, dim=1), torch.tensor(keep)
    targets = transport.cluster(points, kept)
    cost = transport.distances(points, targets, 1)
    plan = transport.exact(torch.full((8,), 1 / 8).double(), torch.full((4,), 1 / 4).double(), cost, 0.0)
    encoder, decoder = transport.SCALINGS[scaling](plan, made, kept)
    torch.testing.assert_close(decoder @ encoder @ made, made, rtol=1e-12, atol=1e-12)


def test_units_that_have_nothing_in_common_leave_the_kept_ones_as_they_are() -> None:
    made, kept = torch.eye(4, 6, dtype=torch.float64) * torch.tensor([[1.0], [2.0], [3.0], [0.0]]), [2, 3]
    plan = torch.full((4, 2), 1 / 8, dtype=torch.float64)
    encoder, _ = transport.energy_preserving(plan, made, torch.tensor(kept))
    assert encoder.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden, self.back = nn.Embedding(11, 8), nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        return (x + self.back(self.hidden(x).relu())) @ self.table.weight.T


def test_what_cannot_be_coded_is_left_dropped_and_told() -> None:
    torch.manual_seed(0)
    model, tokens = Tied().eval(), torch.randint(11, (2, 3))
    keep = halves(model, tokens)
    small, told = reduced(model, tokens, keep)
    assert list(told["left"].values()) == ["table.weight both makes and reads its units"]
    assert told["groups"].keys() == {"hidden.weight"}
    assert torch.equal(small.table.weight, model.table.weight[:, ::2])


@pytest.mark.parametrize(
    "options",
    [
        {"p": 0.0}, {"source": "mass"}, {"target_mass": "x"}, {"target": "x"}, {"plan": "x"}, {"regularisation": 0.0},
        {"scaling": "mean"},
    ],
)  # fmt: skip
def test_an_unknown_choice_is_refused_by_name(options: dict[str, Any]) -> None:
    model, x = net()
    with pytest.raises(InputError, match=next(iter(options))):
        secateur.prune(model, x, granularity="channel", amount=0.5, compensation="fuse", **options)


@pytest.mark.parametrize(
    "options", [{}, {"plan": "sinkhorn"}, {"target": "cluster"}, {"source": "importance"}]
)
def test_pruning_by_name(options: dict[str, Any]) -> None:
    model, x = net()
    dropped = secateur.prune(model, x, granularity="channel", amount=0.5)
    fused = secateur.prune(model, x, granularity="channel", amount=0.5, compensation="fuse", **options)
    shapes = [{name: t.shape for name, t in named_tensors(each.model).items()} for each in (dropped, fused)]
    assert shapes[0] == shapes[1]
    assert fused.compensated["groups"].keys() == {"stem.weight", "first.weight"}
    assert all(tensor.isfinite().all() for tensor in named_tensors(fused.model).values())


def test_heads_are_fused_as_blocks() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    torch.manual_seed(0)
    model, x = Attention().double().eval(), torch.randn(2, 5, 16).double()
    (group,) = [each for each in secateur.analyze(model, x).free if each.heads]
    with torch.no_grad():
        rows = model.attention.in_proj_weight.view(3, 4, 4, 16)
        rows[:, 2:] = rows[:, :2]
        model.attention.in_proj_bias.view(3, 4, 4)[:, 2:] = model.attention.in_proj_bias.view(3, 4, 4)[:, :2]
        columns = model.attention.out_proj.weight.view(16, 4, 4)
        columns[:, 2:] = 0.5 * columns[:, :2]
        small, _ = reduced(model, x, {group.name: torch.tensor([True, False, False, True])})
        torch.testing.assert_close(small(x), model(x))


def test_without_pot_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    model, x = net()
    with pytest.raises(MissingExtraError, match=r"POT: install it with pip install 'secateur\[fuse\]'"):
        secateur.prune(model, x, granularity="channel", amount=0.5, compensation="fuse")
