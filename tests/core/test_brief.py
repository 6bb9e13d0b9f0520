"""Values are written in a line, however much they hold; a tree is there on request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import secateur
from secateur.core.brief import Brief, brief
from secateur.lottery.subnetwork import subnetwork
from secateur.measure.cost import cost
from secateur.pruning.settings import Settings


@dataclass(frozen=True, repr=False)
class Large(Brief):
    name: str
    model: nn.Module
    scores: torch.Tensor
    table: dict[str, Any]


def test_large_fields_are_told_by_kind_and_size() -> None:
    large = Large("a", nn.Linear(2, 3), torch.zeros(4, 5), dict.fromkeys(map(str, range(99))))
    assert repr(large) == "Large(name='a', model=Linear, scores=float32 [4, 5], table=dict of 99)"
    assert brief([large]) == "[Large]"
    assert brief(np.zeros(3)) == "float64 [3]"
    assert brief((1,)) == "(1,)"
    assert brief("x" * 100) == "'" + "x" * 58 + "…"
    assert brief([{"a": 1.5}, None]) == "[{'a': 1.5}, None]"
    assert brief({"a": ["y" * 50, "z" * 50]}) == "{'a': list of 2}"
    assert brief(object()) == "object"


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x: torch.Tensor) -> Any:
        return x + self.inner(x)


def deep() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 64), *(Residual() for _ in range(16)), nn.Linear(64, 10)).eval()


X = torch.randn(2, 8)


def shown() -> Iterator[Any]:
    """What the public functions return, and what can be reached from it."""
    model = deep()
    groups = secateur.analyze(model, X)
    yield from (
        groups,
        groups.groups[0],
        groups.groups[0].members[0],
        groups.coupling,
        groups.coupling.program,
    )
    for granularity in ("channel", "layer", "weight"):
        result = secateur.prune(model, X, granularity=granularity, amount=0.5)
        yield from (
            result,
            result.masks,
            *([] if result.plan is None else [result.plan, result.verification]),
        )
    yield secateur.measure(model, X)
    yield cost(model, X)
    yield Settings.of(amount=0.5, data=[(X, None)] * 50)
    yield subnetwork(model, rate=0.2, level=1)
    yield secateur.safe_rate(model)
    yield secateur.Calibration.of([(X, None)] * 50)
    yield from (secateur.CRITERIA, secateur.METHODS, secateur.SCOPES, secateur.TrainConfig())
    yield secateur.Fit([{"loss": 1.0}] * 500, 3.0)


def test_no_public_value_fills_a_screen() -> None:
    for value in shown():
        assert len(repr(value)) <= 1000, type(value)
        assert repr(value).count("\n") < 12, type(value)
        assert not repr(value).startswith("<"), type(value)


def test_a_result_and_groups_say_what_matters_and_have_a_tree() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    groups = secateur.analyze(model, X)
    assert repr(groups) == (
        "Groups(3 groups, 1 of which may be cut, with 4 units; print(groups.tree()) shows them)"
    )
    assert repr(groups.free[0]) == "Group('0.weight', 4 channels through 3 dimensions)"
    assert "stays: it is an output of the model" in repr(groups.groups[-1])
    lines = groups.tree().splitlines()
    assert lines[:5] == [
        "3 groups, 1 of which may be cut, with 4 units",
        "├── 0.weight: 4 channels, 11 parameters each",
        "│   ├── 0.weight  [4]×8",
        "│   ├── 0.bias  [4]",
        "│   └── 2.weight  2×[4]",
    ]
    assert lines[-2:] == [
        "└── stays, because it is an output of the model",
        "    └── 2.weight (the model's output)  [2]×4",
    ]
    result = secateur.prune(model, X, granularity="channel", amount=0.5)
    assert repr(result).startswith(
        "Pruned(Sequential, 50.00% of the channels removed, 46 → 24 parameters, verified to "
    )
    assert "├── 0.weight: 2 of 4 channels, 11 parameters each" in result.tree()
    weights = secateur.prune(model, amount=0.5)
    assert repr(weights) == "Pruned(Sequential, 50.00% of the weights removed; see .summary() and .tree())"
    assert f"└── 2.weight: {int(weights.masks['2.weight'].sum())} of 8 weights" in weights.tree()
    layers = secateur.prune(deep(), X, granularity="layer", amount=1.0, layers=["3", "5"])
    assert "├── 3: left out" in layers.tree()
