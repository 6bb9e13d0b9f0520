"""Fusion by optimal transport: what it must leave as it was, against definitions computed another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import secateur
from secateur.compensation import COMPENSATIONS, Case
from secateur.compensation.codable import Codable
from secateur.graph.cut import Cut
from secateur.graph.fit import misfits
from secateur.graph.groups import Groups
from secateur.shrink.apply import apply
from secateur.shrink.plan import named_tensors
from secateur.structured import plan_for
from structural_zoo import CASES, run, to_double

pytest.importorskip("ot")
fuse = COMPENSATIONS["fuse"].functions["channel"]


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
    if misfits(small, cut, inputs):
        pytest.skip("the code does not follow a cut of all groups")
    scores = scores or {group.name: torch.rand(group.units) + 0.5 for group in chosen}
    case = Case(model, small, groups.coupling.program, None, 0, cut, plan, tuple(chosen), scores)
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


@pytest.mark.parametrize("reader", [1.0, 0.7])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_equal_units_become_one_without_a_trace(name: str, reader: float) -> None:
    case = CASES[name]()
    model, inputs = case.model.double(), to_double(case.inputs)
    keep = twins(model, groups_of(model, inputs), reader=reader)
    if not keep:
        pytest.skip("no group can be coded")
    small, told = reduced(model, inputs, keep)
    assert told["groups"].keys() == keep.keys()
    assert differs(run(model, inputs), run(small, inputs)) < 1e-9, told
