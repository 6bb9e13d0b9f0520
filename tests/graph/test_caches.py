"""Caches in a model's code: nothing of a trace is found in them, and nothing of it is left there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import secateur
from secateur.graph.sizes import Attribute, leaves
from secateur.graph.trace import trace

PROBLEM_SIZE = 64
Shape = Callable[[int, int, int, int], tuple[int, ...]]


def split(batch: int, length: int, width: int, heads: int) -> tuple[int, ...]:
    """The shape of heads, as helpers compute and cache it."""
    return batch, length, heads, width // heads


@functools.lru_cache(256)
def kept_split(*sizes: int) -> tuple[int, ...]:
    return split(*sizes)


@functools.cache
def unbounded_split(*sizes: int) -> tuple[int, ...]:
    return split(*sizes)


class Splits:
    """Caches in other places: of a class, and in a closure."""

    @staticmethod
    @functools.lru_cache
    def static(*sizes: int) -> tuple[int, ...]:
        return split(*sizes)

    @staticmethod
    def in_closure() -> Shape:
        @functools.lru_cache(1)
        def inner(*sizes: int) -> tuple[int, ...]:
            return split(*sizes)

        return inner


TABLE: dict[tuple[int, ...], tuple[int, ...]] = {}


def in_a_table(*sizes: int) -> tuple[int, ...]:
    """A cache by hand, for sizes of one model after another."""
    if sizes not in TABLE:
        TABLE[sizes] = split(*sizes)
    return TABLE[sizes]


SPLITS: dict[str, Shape] = {
    "bounded": kept_split,
    "unbounded": unbounded_split,
    "of a class": Splits.static,
    "in a closure": Splits.in_closure(),
}


class Attention(nn.Module):
    """Attention whose shapes come out of a cache."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.shape = 4, shape
        self.to_qkv, self.to_out = nn.Linear(PROBLEM_SIZE, 3 * 32, bias=False), nn.Linear(32, PROBLEM_SIZE)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.reshape(self.shape(*part.shape, self.heads)).transpose(1, 2)
            for part in self.to_qkv(x).chunk(3, -1)
        )
        weights = (q @ k.transpose(-1, -2)).softmax(-1)
        out: Tensor = self.to_out((weights @ v).transpose(1, 2).flatten(2))
        return out


class Stack(nn.Module):
    def __init__(self, layers: int, shape: Shape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attention(shape) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def cut(model: nn.Module) -> dict[str, int]:
    result = secateur.prune(
        model.eval(), torch.randn(1, 5, PROBLEM_SIZE), granularity="channel", amount=0.5, scope="local"
    )
    assert result.plan is not None
    return dict(result.plan.attributes)


@pytest.mark.parametrize("shape", SPLITS.values(), ids=SPLITS)
def test_each_layer_gets_its_own_sizes_whatever_was_cached_before(shape: Shape) -> None:
    both = {"layers.0:heads": 2, "layers.1:heads": 2}
    model = Stack(2, shape).eval()
    plain = model(torch.randn(1, 5, PROBLEM_SIZE))  # fills the cache with plain numbers
    assert cut(model) == both
    assert cut(Attention(shape)) == {":heads": 2}  # another model, of equal sizes
    assert cut(Stack(2, shape)) == both
    assert model(torch.randn(1, 5, PROBLEM_SIZE)).shape == plain.shape


def test_nothing_of_a_trace_stays_in_a_cache() -> None:
    cut(Stack(2, kept_split))
    kept_split(1, 5, 32, 4)
    assert all(type(size) is int for size in kept_split(1, 5, 32, 4))


def test_numbers_of_another_trace_in_a_table_are_plain_numbers() -> None:
    assert cut(Attention(in_a_table)) == {":heads": 2}
    program = trace(Stack(1, in_a_table).eval(), torch.randn(1, 5, PROBLEM_SIZE))
    origins = {
        origin for call in program.calls for size in tree_leaves(call.args) for origin, _ in leaves(size)
    }
    known = {Attribute(path) for path in program.attributes}
    assert {origin for origin in origins if isinstance(origin, Attribute)} <= known


COMPUTED: list[Any] = []


@functools.lru_cache(8)
def ramp(length: int) -> Tensor:
    return torch.linspace(0, 1, length)


@functools.lru_cache
def named(name: str) -> list[str]:
    COMPUTED.append(name)
    return [name]


class Cached(nn.Module):
    """Keeps a tensor by a literal number, and something that has nothing to do with numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        named("once")
        kept_split(*x.shape, x.shape[-1], 2)
        out: Tensor = self.b(self.a(x).relu()) * ramp(2)
        return out


def test_no_tensor_without_numbers_stays_in_a_cache() -> None:
    ramp.cache_clear()
    model = Cached().eval()
    trace(model, torch.randn(3, 4))
    assert torch.equal(ramp(2), torch.tensor([0.0, 1.0]))
    assert model(torch.randn(3, 4)).shape == (3, 2)


def test_caches_without_numbers_are_left_alone() -> None:
    named.cache_clear()
    COMPUTED.clear()
    kept = named("once")
    secateur.analyze(Cached().eval(), torch.randn(3, 4))
    assert named("once") is kept
    assert COMPUTED == ["once"]
