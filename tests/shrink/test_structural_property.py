"""Whatever a network looks like, it is pruned by any amount, runs on as itself and computes what is left of it.

The environment variable SECATEUR_EXAMPLES sets how many random networks are tried (60).
"""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import BLOCKS, INPUTS, Network, example, networks
from structural_zoo import form, zero_cut_units

import secateur

EXAMPLES = int(os.environ.get("SECATEUR_EXAMPLES", "60"))
many = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
amounts = st.floats(0.1, 0.9)
scopes = st.sampled_from(["local", "global"])


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@many
@given(networks())
def test_networks_run_and_repeat_themselves(network: Network) -> None:
    x = example(network)
    with torch.no_grad():
        outputs, again, double = network(x), network(x), network.double()(x.double())
    assert form(outputs) == form(again)
    torch.testing.assert_close(again, outputs, rtol=0, atol=0)
    for value in outputs if isinstance(outputs, tuple) else (outputs,):
        assert len(value) == 2
        assert value.isfinite().all()
    assert form(double)[0] == form(outputs)[0]


def test_every_block_is_drawn_for_some_input() -> None:
    shapes = [*INPUTS, (12,), (12, 2, 2), (4, 4, 4)]
    assert all(any(block.takes(shape) for shape in shapes) for block in BLOCKS.values())


@many
@given(networks(), amounts, scopes)
def test_a_pruned_network_keeps_its_form_and_is_verified(network: Network, amount: float, scope: str) -> None:
    x = example(network)
    result = secateur.prune(network, x, granularity="channel", amount=amount, scope=scope)
    with torch.no_grad():
        before, after = network(x), result.model(x)
    assert form(after) == form(before)
    assert parameters(result.model) <= parameters(network)
    assert result.verification.error <= 1e-9, result.verification


@settings(many, max_examples=max(1, EXAMPLES // 3))  # it prunes twice
@given(networks(exact=True), amounts, scopes)
def test_cutting_units_of_zero_weight_changes_nothing(network: Network, amount: float, scope: str) -> None:
    network, x = network.double(), example(network).double()
    choice = {"granularity": "channel", "amount": amount, "scope": scope}
    first = secateur.prune(network, x, **choice)
    zero_cut_units(network, secateur.analyze(network, x), first.plan.kept)

    second = secateur.prune(network, x, **choice)

    assert parameters(second.model) == parameters(first.model)
    with torch.no_grad():
        torch.testing.assert_close(second.model(x), network(x), rtol=1e-9, atol=1e-9)
