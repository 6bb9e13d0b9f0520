"""Methods of scores and gates, against finite differences, Monte Carlo and their definitions in numpy."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_runs import STEPS, advance, batch, begin, fresh, optimizer_of
from torch import Tensor, nn
from torch.nn import functional

from secateur import InputError, Masks, ModelError, SecateurWarning
from secateur.methods import METHODS, start
from secateur.methods.l0 import BETA, HIGH, LOW, HardConcrete
from secateur.methods.scored import ScoreBased
from secateur.methods.targeted_dropout import highest_of_rows
from secateur.sparsity.blocks import Blocks

SCORED = [name for name, entry in METHODS.items() if issubclass(entry.make, ScoreBased)]
TOP = ["movement", "edge_popup"]


def scores_of(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if name.endswith("scores")}


@pytest.mark.parametrize("name", TOP)
@pytest.mark.parametrize("block", ["1x1", "2x3", "1xall", "allx2"])
def test_scores_have_the_gradient_of_the_relaxed_loss(block: str, name: str) -> None:
    """∂L/∂S is the slope of L(W ∘ (m + δ)) in δ at 0, also where m cuts, by central differences; times sign S in
    edge-popup, which compares |S|."""
    model = fresh(dtype=torch.float64).eval()
    plain = copy.deepcopy(model)
    more = {"initial": 0.5} if name == "movement" else {}
    method = begin(name, model, optimizer_of(model), amount=0.5, block=block, **more)
    inputs, labels = batch(0, torch.float64)
    functional.cross_entropy(model(inputs), labels).backward()
    gate = method.gates["head.weight"]
    assert gate.kept.any()
    assert not gate.kept.all()
    masks = dict(method.masks)
    weights = {
        n: p.detach().clone() * masks[n] if n in masks else p.detach() for n, p in plain.named_parameters()
    }
    state = {**dict(plain.named_buffers()), **weights}
    original = dict(plain.named_parameters())["head.weight"].detach()

    def loss(at: tuple[int, ...], delta: float) -> float:
        factors = torch.zeros(gate.scores.shape, dtype=torch.float64)
        factors[at] = delta
        moved = state["head.weight"] + original * gate.blocks.spread(factors, (4, 8))
        found = torch.func.functional_call(plain, {**state, "head.weight": moved}, (inputs,))
        return float(functional.cross_entropy(found, labels))

    for at in np.ndindex(*gate.scores.shape):
        slope = (loss(at, 1e-5) - loss(at, -1e-5)) / 2e-5
        sign = float(gate.scores.detach()[at].sign()) if name == "edge_popup" else 1.0
        assert float(gate.scores.grad[at]) == pytest.approx(sign * slope, abs=1e-9)


def test_a_cut_weight_has_no_gradient_but_its_score_has() -> None:
    model = fresh()
    method = begin("movement", model, optimizer_of(model), amount=0.7, initial=0.7)
    functional.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    mask = method.masks["stem.weight"]
    gate = method.gates["stem.weight"]
    assert not method.targets["stem.weight"].grad[~mask].any()
    assert gate.scores.grad[~mask].any()


@pytest.mark.parametrize("name", TOP)
@pytest.mark.parametrize("scope", ["local", "global"])
def test_equal_scores_empty_no_matrix(name: str, scope: str) -> None:
    """At the very start, with all to be ranked together."""
    more = {"initial": 0.9} if name == "movement" else {}
    model = fresh()
    method = begin(name, model, optimizer_of(model), amount=0.9, scope=scope, **more)
    for key, mask in method.masks.items():
        assert mask.any(), key
    assert method.masks.pruned == pytest.approx(0.9 * method.masks.total, abs=5)


def test_among_equal_scores_the_smallest_weights_go_first() -> None:
    model = fresh()
    method = begin("movement", model, optimizer_of(model), amount=0.4, initial=0.4)
    for name, mask in method.masks.items():
        weight = dict(method.targets)[name].detach().abs()
        assert weight[~mask].max() <= weight[mask].min()


@pytest.mark.parametrize("name", TOP)
def test_the_top_of_the_scores_is_kept_in_every_matrix(name: str) -> None:
    model = fresh()
    optimizer = optimizer_of(model, "adamw")
    method = begin(name, model, optimizer, amount=0.75, scope="local")
    advance(model, optimizer, method)
    scores = {key: gate.ranks().numpy().ravel() for key, gate in method.gates.items()}
    for key, mask in method.finish().items():
        kept = set(np.flatnonzero(mask.numpy()))
        best = set(np.argsort(scores[key])[round(0.75 * mask.numel()) :])
        assert kept == best


def test_a_weight_can_come_back() -> None:
    model = fresh()
    optimizer = optimizer_of(model, "adamw")
    method = begin("movement", model, optimizer, amount=0.5, initial=0.5, score_lr=1.0)
    before = method.masks
    advance(model, optimizer, method)
    after = method.masks
    assert any((after[key] & ~before[key]).any() for key in before)


@pytest.mark.parametrize("name", ["edge_popup", "supermask"])
def test_a_random_network_learns_by_its_mask_alone(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 256), nn.ReLU(), nn.Linear(256, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    amount = 0.5 if name == "edge_popup" else None
    method = start(name, model, optimizer, steps=100, amount=amount)
    inputs, labels = batch(0)
    model.train()
    for _ in range(100):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    method.finish()
    assert float((model(inputs).argmax(1) == labels).float().mean()) > 0.8


@pytest.mark.parametrize("name", ["edge_popup", "supermask"])
def test_frozen_networks_keep_their_weights(name: str) -> None:
    model = fresh()
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = optimizer_of(model, "adamw")
    more: dict[str, Any] = {"rescale": False} if name == "supermask" else {}
    method = begin(name, model, optimizer, amount=0.5, score_lr=0.1, **more)
    advance(model, optimizer, method)
    masks = method.finish()
    assert masks.pruned
    for key, value in model.named_parameters():
        expected = before[key] * masks[key] if key in masks else before[key]
        assert torch.equal(value, expected)
        assert value.requires_grad


def test_supermasks_are_drawn_by_their_chances_and_rescaled() -> None:
    layer = nn.Linear(50, 400, bias=False).double()
    method = start("supermask", layer, torch.optim.SGD(layer.parameters(), lr=0.1), steps=1000)
    gate = method.gates["weight"]
    gate.scores.data.fill_(math.log(0.3 / 0.7))
    layer.train()
    shares = []
    for step in range(20):
        method.clock.step = step
        seen = layer.weight.detach()
        shares.append(float((seen != 0).double().mean()))
        scale = seen[seen != 0] / method.targets["weight"].detach()[seen != 0]
        assert torch.allclose(scale, torch.full_like(scale, 1 / shares[-1]))
        assert torch.equal(seen, layer.weight)  # within a step the draw is the same
    assert np.mean(shares) == pytest.approx(0.3, abs=0.005)
    assert len(set(shares)) > 1
    layer.eval()
    assert not layer.weight.any()  # σ(S) < ½ everywhere
    gate.scores.data[0] = 1.0
    masks = method.finish()
    assert int(masks["weight"].sum()) == 50


def test_a_supermasks_score_has_the_slope_of_its_chance() -> None:
    """∂L/∂S = ∂L/∂W′ ∘ W ∘ σ′(S), with a loss that is linear in W′."""
    layer = nn.Linear(6, 5, bias=False).double()
    method = start("supermask", layer, torch.optim.SGD(layer.parameters(), lr=0.1), steps=9, rescale=False)
    gate = method.gates["weight"]
    gate.scores.data = torch.linspace(-2, 2, 30, dtype=torch.float64).reshape(5, 6)
    inputs = torch.arange(6.0, dtype=torch.float64)
    layer(inputs).sum().backward()
    chance = torch.sigmoid(gate.scores.detach())
    expected = inputs * method.targets["weight"].detach() * chance * (1 - chance)
    assert torch.allclose(gate.scores.grad, expected)


def concrete(scores: Tensor) -> HardConcrete:
    class Clock:
        step = 0

    weight = nn.Parameter(torch.ones_like(scores))
    gate = HardConcrete("w", weight, Blocks(1, 1), Clock(), 0)  # type: ignore[arg-type]
    gate.scores.data = scores.clone()
    return gate


@pytest.mark.parametrize("log_alpha", [-3.0, -1.0, 0.0, 0.7, 2.197, 4.0])
def test_the_expected_l0_norm_is_what_monte_carlo_finds(log_alpha: float) -> None:
    """P(z ≠ 0) of the stretched and clipped concrete distribution, drawn by numpy; and of the gate's own draws."""
    gate = concrete(torch.full((400, 500), log_alpha, dtype=torch.float64))
    expected = float(METHODS["l0"].make.cost(None, gate).detach()[0, 0])  # type: ignore[attr-defined, arg-type]
    u = np.random.default_rng(0).uniform(size=200_000)
    s = 1 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + log_alpha) / BETA))
    z = np.clip(s * (HIGH - LOW) + LOW, 0, 1)
    error = 4 * math.sqrt(expected * (1 - expected) / len(u)) + 1e-4
    assert np.mean(z > 0) == pytest.approx(expected, abs=error)
    gate.train()
    drawn = gate.opened().detach()
    assert float((drawn > 0).double().mean()) == pytest.approx(expected, abs=error)
    assert float(drawn.mean()) == pytest.approx(z.mean(), abs=5e-3)
    gate.eval()
    centre = 1 / (1 + math.exp(-log_alpha)) * 1.2 - 0.1
    assert torch.allclose(
        gate.opened().detach(), torch.tensor(min(1.0, max(0.0, centre)), dtype=torch.float64)
    )


def test_hard_concrete_gates_have_the_slope_of_their_draws() -> None:
    gate = concrete(torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)).train()
    gate.opened().sum().backward()
    (before,) = (gate.scores.data.clone(),)
    for at in np.ndindex(3, 4):
        values = []
        for sign in (1, -1):
            gate.scores.data = before.clone()
            gate.scores.data[at] += sign * 1e-6
            values.append(float(gate.opened().detach().sum()))
        assert float(gate.scores.grad[at]) == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "cost"),
    [
        ("soft_movement", lambda s: torch.sigmoid(s)),
        ("l0", lambda s: torch.sigmoid(s - 2 / 3 * math.log(0.1 / 1.1))),
    ],
)
@pytest.mark.parametrize("weighting", [None, "matrix", "score"])
def test_penalties_are_means_of_the_matrices_means_or_of_all_scores_and_grow(
    name: str, cost: Any, weighting: str | None
) -> None:
    model = fresh(dtype=torch.float64)
    chosen = {} if weighting is None else {"weighting": weighting}
    method = begin(name, model, optimizer_of(model), strength=3.0, begin=0.25, end=0.75, **chosen)
    for number, scores in enumerate(scores_of(model).values()):
        scores.data += 0.1 * number
    every = [cost(scores.detach()).flatten() for scores in scores_of(model).values()]
    assert len({len(each) for each in every}) > 1
    means = torch.stack([each.mean() for each in every])
    expected = float(torch.cat(every).mean() if weighting == "score" else means.mean())
    for step, share in ((0, 0.0), (3, 0.0), (6, 1 - 0.5**3), (9, 1.0), (12, 1.0)):
        method.clock.step = step
        assert float(method.penalty().detach()) == pytest.approx(3.0 * share * expected, abs=1e-12)


@pytest.mark.parametrize("name", ["soft_movement", "l0"])
@pytest.mark.parametrize(
    ("options", "cuts"), [({}, False), ({"amount": 0.3}, True), ({"score_lr": 1e4, "begin": 0.0}, True)]
)
def test_a_penalty_that_has_cut_nothing_is_told(name: str, options: dict[str, Any], cuts: bool) -> None:
    model = fresh()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    earlier = {"stem.weight": torch.rand(8, 10) > 0.1}
    method = start(name, model, optimizer, steps=STEPS, masks=earlier, **options)
    advance(model, optimizer, method)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        masks = method.finish()
    assert (masks.pruned > Masks(earlier).pruned) == cuts
    assert [each.category for each in told] == ([] if cuts else [SecateurWarning])
    for each in told:
        assert str(each.message).startswith(f"The method {name} has cut nothing: ")
        assert all(way in str(each.message) for way in ("strength", "score_lr", "begin", "end", "an amount"))


@pytest.mark.parametrize("name", ["soft_movement", "l0"])
def test_a_penalty_closes_gates_and_they_stay_closed_in_the_result(name: str) -> None:
    model = fresh()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    method = start(name, model, optimizer, steps=60, strength=50.0, score_lr=0.2, begin=0.0, end=0.1)
    advance(model, optimizer, method, last=60)
    model.eval()
    inputs = batch(0)[0]
    seen = model(inputs).detach()
    masks = method.finish()
    assert masks.sparsity > 0.5
    for parameter, mask in masks.of(model):
        assert not parameter[~mask].any()
    torch.testing.assert_close(model(inputs), seen, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SCORED)
def test_scores_join_the_optimiser_at_their_own_rate(name: str) -> None:
    model = fresh()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    method = begin(name, model, optimizer, score_lr=0.02)
    group = optimizer.param_groups[-1]
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.0)
    assert group["lr_factor"] == pytest.approx(0.2)
    assert set(map(id, group["params"])) == set(map(id, scores_of(model).values()))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(0.01)
    method.finish()


def test_a_rate_of_scores_needs_one_to_go_along_with() -> None:
    model = fresh()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(InputError, match="learning rate is 0"):
        begin("movement", model, optimizer, score_lr=0.1)
    assert not optimizer._optimizer_step_pre_hooks
    assert not scores_of(model)


@pytest.mark.parametrize("name", [*SCORED, "targeted_dropout"])
def test_a_tied_weight_has_one_gate(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = start(name, model, optimizer, steps=3, amount=0.5)
    model(torch.ones(2, 6)).sum().backward()
    assert torch.equal(model[0].weight, model[2].weight)
    optimizer.step()
    masks = method.finish()
    assert list(masks) == ["0.weight"]
    assert model[0].weight is model[2].weight


@pytest.mark.parametrize("name", [*SCORED, "targeted_dropout"])
def test_recurrent_layers_are_refused_or_left_alone(name: str) -> None:
    model = nn.ModuleDict({"cells": nn.LSTM(3, 4), "head": nn.Linear(4, 2)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ModelError, match=r"cells is a LSTM.*leave it alone with keep"):
        start(name, model, optimizer, steps=3, amount=0.5)
    assert not optimizer._optimizer_step_pre_hooks
    start(name, model, optimizer, steps=3, amount=0.5, keep="cells").finish()


def test_attention_works_through_gates() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    method = start("movement", model, optimizer, steps=4, amount=0.5, block="4xall")
    for step in range(4):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        assert all(score.grad is not None for score in scores_of(model).values())
        optimizer.step()
    heads = method.finish()["self_attn.in_proj_weight"].reshape(6, 4 * 8)
    assert (heads.all(1) | ~heads.any(1)).all()
    assert int((~heads.any(1)).sum()) == 3


def test_half_precision_weights_have_scores_in_single() -> None:
    model = fresh().to(torch.bfloat16)
    method = begin("movement", model, optimizer_of(model))
    assert {score.dtype for score in scores_of(model).values()} == {torch.float32}
    assert model.head.weight.dtype == torch.bfloat16
    method.finish()


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5), st.integers(0, 5))
def test_blocks_are_what_loops_find(out: int, inner: int, kernel: int, rows: int, columns: int) -> None:
    shape = (out, inner, kernel)
    values = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    blocks = Blocks(rows, columns)
    height, width = rows or out, columns or inner * kernel
    matrix = values.reshape(out, -1)
    expected = [
        [float(matrix[i : i + height, j : j + width].mean()) for j in range(0, inner * kernel, width)]
        for i in range(0, out, height)
    ]
    means = blocks.means(values)
    assert torch.allclose(
        means.reshape(len(expected), -1) if not blocks.single else means.reshape(out, -1),
        torch.tensor(expected, dtype=torch.float64),
    )
    spread = blocks.spread(means, shape).reshape(out, -1)
    for i in range(out):
        for j in range(inner * kernel):
            assert float(spread[i, j]) == pytest.approx(expected[i // height][j // width])


@pytest.mark.parametrize("text", ["", "3", "0x1", "1x", "ax2", "1x1x1", "-1x2", "1X1"])
def test_other_blocks_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="There is no block"):
        Blocks.parse(text)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("movement", {"score_lr": 0}, "score_lr is 0"),
        ("movement", {"block": "x"}, "no block 'x'"),
        ("movement", {"begin": 0.9, "end": 0.1}, "from 0.9 to 0.1"),
        ("movement", {"initial": 2}, "amount 2 is not"),
        ("soft_movement", {"threshold": 1}, "threshold 1 is"),
        ("l0", {"strength": -1}, "strength -1 is no penalty"),
        ("targeted_dropout", {"rate": 1.5}, "1.5 is not a number between"),
        ("targeted_dropout", {"scope": "column"}, "no scope named 'column'"),
    ],
)
def test_nonsense_is_refused(name: str, change: dict[str, Any], said: str) -> None:
    model = fresh()
    with pytest.raises(InputError, match=said):
        begin(name, model, optimizer_of(model), **change)


@pytest.mark.parametrize("amount", [0.0, 0.3, 0.5, 1.0])
def test_targeted_dropout_drops_the_smallest_of_each_row_at_its_rate(amount: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(100, 60, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    method = start("targeted_dropout", layer, optimizer, steps=200, amount=amount, rate=0.25)
    weight = method.targets["weight"].detach()
    small = weight.abs().argsort(1).argsort(1) < round(amount * 100)
    dropped = torch.zeros(60, 100)
    for step in range(100):
        method.clock.step = step
        seen = layer.weight.detach()
        assert torch.equal(seen[~small], weight[~small])
        dropped += seen == 0
    if amount:
        assert float(dropped[small].mean()) / 100 == pytest.approx(0.25, abs=0.01)
    layer.eval()
    assert torch.equal(layer.weight, weight)
    assert torch.equal(method.finish()["weight"], ~small)


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0, 1))
def test_every_row_loses_exactly_its_share(rows: int, columns: int, amount: float) -> None:
    weight = nn.Parameter(torch.zeros(rows, columns, 2))
    kept = highest_of_rows(weight, amount).reshape(rows, -1)
    assert (kept.sum(1) == 2 * columns - round(amount * 2 * columns)).all()
