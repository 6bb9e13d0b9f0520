"""Micro-benchmarks of the inner operations, for watching them while changing them (pytest-benchmark).

python -m pytest benchmarks/test_micro.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from secateur import Masks, prune, safe_rate
from secateur.pruning.allocate_weights import allocate, keep_highest
from secateur.sparsity.granularity.pattern import Pattern

Benchmark = Callable[..., Any]


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    return torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0))


def test_keep_highest(benchmark: Benchmark, weights: torch.Tensor) -> None:
    mask = benchmark(keep_highest, weights.flatten(), 3_000_000)
    assert int(mask.count_nonzero()) == weights.numel() - 3_000_000


@pytest.mark.parametrize("scope", ["global", "local", "erk", "lamp"])
def test_allocate(benchmark: Benchmark, weights: torch.Tensor, scope: str) -> None:
    scores = {"a": weights[:1024].abs(), "b": weights[1024:].abs()}
    masks = benchmark(allocate, scores, 0.8, scope)
    assert masks.pruned == pytest.approx(0.8 * weights.numel(), abs=1)


def test_pattern_mask(benchmark: Benchmark, weights: torch.Tensor) -> None:
    mask = benchmark(Pattern(2, 4).mask, weights)
    assert int(mask.count_nonzero()) == weights.numel() // 2


def test_pack(benchmark: Benchmark, weights: torch.Tensor) -> None:
    packed = benchmark(Masks({"w": weights > 0}).pack)
    assert packed["w"].numel() == weights.numel() // 8


def test_prune(benchmark: Benchmark) -> None:
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))
    result = benchmark(prune, model, amount=0.5)
    assert result.masks.sparsity == 0.5


def test_safe_rate(benchmark: Benchmark, weights: torch.Tensor) -> None:
    assert 0.7 < benchmark(safe_rate, {"w": weights}).optimum < 0.9
