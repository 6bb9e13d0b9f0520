"""Every small model that breaks pruners is cut in half, runs on as itself and computes what is left of it."""

from __future__ import annotations

import copy

import pytest
import torch
from structural_zoo import CASES, Case, form, run, to_double, zero_cut_units
from torch import Tensor
from torch.utils import _pytree as pytree

import secateur

HALF = {"granularity": "channel", "amount": 0.5, "scope": "local"}


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def tensors(outputs: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def snapshot(case: Case) -> tuple[str, dict[str, Tensor], list[Tensor]]:
    """What must not change in a case: the model as printed, its state and its inputs."""
    state = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    return repr(case.model), state, [tensor.clone() for tensor in tensors(case.inputs)]


@pytest.mark.parametrize("name", CASES)
def test_a_case_runs_and_every_parameter_takes_part(name: str) -> None:
    case, twin = CASES[name](), CASES[name]()
    outputs = tensors(run(case.model, case.inputs))
    with torch.no_grad():
        for other in (case, twin):
            torch.testing.assert_close(tensors(run(other.model, other.inputs)), outputs)
        double = tensors(run(copy.deepcopy(case.model).double(), to_double(case.inputs)))
        torch.testing.assert_close([tensor.float() for tensor in double], outputs, rtol=1e-3, atol=1e-4)
    sum(tensor.square().sum() + tensor.sin().sum() for tensor in outputs).backward()
    idle = [
        name for name, tensor in case.model.named_parameters() if tensor.grad is None or not tensor.grad.any()
    ]
    assert not idle
    assert case.note


@pytest.mark.parametrize("name", CASES)
def test_half_of_every_group_goes(name: str) -> None:
    case = CASES[name]()
    shown, state, inputs = snapshot(case)
    with torch.no_grad():
        before = run(case.model, case.inputs)

    result = secateur.prune(case.model, case.inputs, **HALF)

    with torch.no_grad():
        after = run(result.model, case.inputs)
    assert form(after) == form(before)
    assert all(tensor.isfinite().all() for tensor in tensors(after))
    removed = 1 - parameters(result.model) / parameters(case.model)
    assert removed >= case.min_removed
    assert result.verification.error <= 1e-9, result.verification
    assert type(result.model) is type(case.model)

    assert repr(case.model) == shown
    torch.testing.assert_close(dict(case.model.state_dict()), state, rtol=0, atol=0)
    torch.testing.assert_close(tensors(case.inputs), inputs, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(tensors(run(case.model, case.inputs)), tensors(before), rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name, build in CASES.items() if build().exact])
def test_units_of_zero_weight_go_and_the_output_stays(name: str) -> None:
    case = CASES[name]()
    model, inputs = case.model.double(), to_double(case.inputs)
    first = secateur.prune(model, inputs, **HALF)
    assert zero_cut_units(model, secateur.analyze(model, inputs), first.plan.kept) > 0

    second = secateur.prune(model, inputs, **HALF)

    assert parameters(second.model) == parameters(first.model)
    with torch.no_grad():
        expected, found = tensors(run(model, inputs)), tensors(run(second.model, inputs))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
