"""Gradual magnitude, dynamic sparse training and slimming, against their definitions computed another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_runs import Net, advance, batch, begin, fresh, optimizer_of
from torch import nn

from secateur import InputError, ModelError, allocate
from secateur.methods import start
from secateur.methods.draws import uniform
from secateur.methods.schedule import cubic


@given(
    st.integers(0, 200),
    st.integers(1, 200),
    st.floats(0, 1),
    st.floats(0, 1),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_the_cubic_schedule_is_its_formula(
    step: int, steps: int, initial: float, final: float, span: tuple[float, float]
) -> None:
    begin, end = sorted(span)
    found = cubic(step, steps, final, initial=initial, begin=begin, end=end)
    if step >= end * steps:
        assert found == final
    elif step <= begin * steps:
        assert found == initial
    else:
        part = np.float64(step - begin * steps) / np.float64((end - begin) * steps)
        assert found == pytest.approx(final + (initial - final) * (1 - part) ** 3, abs=1e-12)
    assert min(initial, final) - 1e-12 <= found <= max(initial, final) + 1e-12


@pytest.mark.parametrize("scope", ["global", "local", "erk", "lamp"])
def test_gradual_cuts_what_the_schedule_says_and_nothing_comes_back(scope: str) -> None:
    model = fresh()
    optimizer = optimizer_of(model, "adamw")
    method = begin("gradual", model, optimizer, amount=0.8, scope=scope, every=2, end=0.5, initial=0.1)
    total, earlier = sum(t.numel() for t in method.targets.values()), method.masks
    for step in range(12):
        advance(model, optimizer, method, step, step + 1)
        masks, now = method.masks, step + 1
        wanted = cubic(now - now % 2, 12, 0.8, initial=0.1, end=0.5) if now > 1 else 0.0
        assert abs(masks.pruned - wanted * total) <= (0.5 if scope != "local" else len(masks))
        for name, mask in masks.items():
            assert not (mask & ~earlier[name]).any()
            assert not dict(model.named_parameters())[name][~mask].any()
        earlier = masks
    assert method.masks.pruned == pytest.approx(0.8 * total, abs=5)


def test_gradual_at_one_step_is_one_cut_by_magnitude() -> None:
    model = fresh()
    expected = allocate({n: p.abs() for n, p in model.named_parameters() if p.ndim > 1}, 0.7, "global")
    masks = start("gradual", model, optimizer_of(model), steps=0, amount=0.7).finish()
    assert all(torch.equal(masks[name], expected[name]) for name in expected)


def test_gradual_starts_from_uneven_earlier_cuts() -> None:
    earlier = {"head.weight": torch.arange(32).reshape(4, 8) >= 16}
    model = fresh()
    optimizer = optimizer_of(model)
    method = begin("gradual", model, optimizer, amount=0.75, scope="local", masks=earlier, every=1)
    advance(model, optimizer, method)
    assert all((~mask).sum() == round(0.75 * mask.numel()) for mask in method.finish().values())
    with pytest.raises(InputError, match=r"head\.weight has lost 0\.5000 already"):
        begin("gradual", model, optimizer, amount=0.25, scope="local", masks=earlier)


@pytest.mark.parametrize("name", ["set", "rigl"])
@pytest.mark.parametrize("scope", ["erk", "local"])
def test_a_layer_keeps_its_number_of_weights_while_they_move(name: str, scope: str) -> None:
    model = fresh()
    optimizer = optimizer_of(model)
    method = begin(name, model, optimizer, amount=0.7, scope=scope, every=2, end=1.0)
    counts = {key: int(mask.sum()) for key, mask in method.masks.items()}
    assert method.masks.pruned == pytest.approx(0.7 * method.masks.total, abs=0.5 if scope == "erk" else 8)
    moved = 0
    for step in range(12):
        before = method.masks
        advance(model, optimizer, method, step, step + 1)
        assert {key: int(mask.sum()) for key, mask in method.masks.items()} == counts
        changed = sum(int((mask ^ before[key]).sum()) for key, mask in method.masks.items())
        assert (changed > 0) <= (step % 2 == 0 and step > 0)
        moved += changed
        for parameter, mask in method.masks.of(model):
            assert not parameter[~mask].any()
    assert moved > 0


def test_rigl_exchanges_what_its_paper_says() -> None:
    """One update in numpy: drop the smallest of the weights, grow the largest gradients of what is not kept."""
    torch.manual_seed(0)
    layer = nn.Linear(30, 20).double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    method = start("rigl", layer, optimizer, steps=100, amount=0.8, every=5, fraction=0.4, end=0.5)
    for step in range(6):
        inputs = torch.randn(8, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        layer(inputs).square().sum().backward()
        if step == 5:
            weight, mask = (
                layer.weight.detach().numpy().ravel().copy(),
                method.masks["weight"].numpy().ravel(),
            )
            gradient = layer.weight.grad.abs().numpy().ravel()
        optimizer.step()
    count = round(0.4 / 2 * (1 + math.cos(math.pi * 5 / 50)) * mask.sum())
    active = [int(i) for i in np.flatnonzero(mask)]
    kept = sorted(active, key=lambda i: abs(weight[i]))[count:]
    candidates = [i for i in range(600) if i not in kept]
    grown = sorted(candidates, key=lambda i: -gradient[i])[:count]
    assert sorted(np.flatnonzero(method.masks["weight"].numpy().ravel())) == sorted(kept + grown)
    momentum = optimizer.state[layer.weight]["momentum_buffer"].flatten()
    fresh_ones = [i for i in grown if i not in active]
    torch.testing.assert_close(  # nothing but this step's gradient, from zero
        layer.weight.detach().flatten()[fresh_ones], -0.1 * momentum[fresh_ones]
    )
    assert np.allclose(momentum[fresh_ones].abs(), gradient[fresh_ones])


def test_rigl_sees_dense_gradients_although_the_loop_zeroes_them_to_clip() -> None:
    outcomes = []
    for clips in (False, True):
        model = fresh()
        optimizer = optimizer_of(model)
        method = begin("rigl", model, optimizer, every=2)
        model.train()
        for step in range(8):
            inputs, labels = batch(step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            if clips:
                method.zero_gradients()
            optimizer.step()
        outcomes.append(method.finish())
    assert all(torch.equal(outcomes[0][key], outcomes[1][key]) for key in outcomes[0])


def test_draws_depend_on_their_purpose_alone() -> None:
    one = uniform((4, 5), "cpu", "x", 3)
    torch.rand(3)
    assert torch.equal(one, uniform((4, 5), "cpu", "x", 3))
    assert not torch.equal(one, uniform((4, 5), "cpu", "x", 4))


def test_what_earlier_masks_cut_never_grows() -> None:
    earlier = {"stem.weight": torch.arange(80).reshape(8, 10) % 2 == 0}
    for name in ("set", "rigl"):
        model = fresh()
        optimizer = optimizer_of(model)
        method = begin(name, model, optimizer, amount=0.7, every=1, end=1.0, masks=earlier)
        advance(model, optimizer, method)
        assert not method.finish()["stem.weight"][~earlier["stem.weight"]].any()


def test_random_masks_need_a_count_for_each_layer() -> None:
    model = fresh()
    with pytest.raises(InputError, match="can't be spread by the scope global"):
        begin("set", model, optimizer_of(model), scope="global")


def test_slimming_by_subgradient_adds_lambda_sign_gamma() -> None:
    model = fresh(dtype=torch.float64)
    norm = model.blocks[1].norm
    norm.weight.data = torch.linspace(-1, 1, 16, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = start("slimming", model, optimizer, steps=1, strength=0.01)
    before = norm.weight.detach().clone()
    inputs, labels = batch(0, torch.float64)
    loss = nn.functional.cross_entropy(model(inputs), labels)
    (gradient,) = torch.autograd.grad(loss, norm.weight, retain_graph=True)
    loss.backward()
    optimizer.step()
    assert torch.allclose(norm.weight, before - 0.1 * (gradient + 0.01 * torch.sign(before)), atol=1e-15)
    assert len(method.finish()) == 0


def test_slimming_by_proximal_step_solves_its_problem() -> None:
    """argmin ½ (x − γ)² + ηλ |x|, searched on a grid."""
    model = fresh(dtype=torch.float64)
    norm = model.blocks[0].norm
    optimizer = torch.optim.SGD(
        [{"params": norm.parameters(), "lr": 0.5}, {"params": model.head.parameters()}], lr=0.1
    )
    method = start("slimming", model, optimizer, steps=1, strength=0.4, form="proximal")
    gammas = torch.linspace(-1, 1, 16, dtype=torch.float64)
    norm.weight.data = gammas.clone()
    optimizer.step()  # without gradients only the proximal step is left
    grid = torch.linspace(-1.5, 1.5, 30001, dtype=torch.float64)
    objective = 0.5 * (grid - gammas[:, None]).square() + 0.5 * 0.4 * grid.abs()
    assert torch.allclose(norm.weight, grid[objective.argmin(1)], atol=1e-4)
    assert int((norm.weight == 0).sum()) == int((gammas.abs() <= 0.2).sum()) > 0
    method.finish()


def test_slimming_says_what_it_needs() -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with pytest.raises(ModelError, match="no BatchNorm"):
        start("slimming", layer, optimizer, steps=1)
    model = fresh()
    with pytest.raises(InputError, match="no form 'soft'"):
        begin("slimming", model, optimizer_of(model), form="soft")
    with pytest.raises(InputError, match="cuts nothing by itself"):
        start("slimming", Net(), optimizer, steps=1, amount=0.5)
    with pytest.raises(InputError, match="no penalty"):
        begin("slimming", model, optimizer_of(model), strength=-1)
