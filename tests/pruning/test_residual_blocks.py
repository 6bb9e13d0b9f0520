"""Residual blocks: which are found, what stands in their place, and which of them stay."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.errors import InputError, ModelError
from secateur.core.modules import submodule
from secateur.shrink.plan import Plan

X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
LAYER = {"granularity": "layer"}


def feed_forward() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))


class Stacked(nn.Module):
    """Layers in a loop; `turn` is what is written in it."""

    def __init__(self, turn: Callable[..., Tensor], make: Callable[[], nn.Module] = feed_forward) -> None:
        super().__init__()
        self.turn = turn
        self.stem, self.head, self.drop = nn.Linear(4, 16), nn.Linear(16, 2), nn.Dropout(0.1)
        self.layers = nn.ModuleList(make() for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(4))
        self.gamma = nn.Parameter(torch.full((4, 16), 0.1))

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for number, layer in enumerate(self.layers):
            x = self.turn(self, x, layer, number)
        return self.head(x)


class Joined(nn.Module):
    """A block that joins its input and its branch by a function."""

    def __init__(self, join: Callable[..., Tensor]) -> None:
        super().__init__()
        self.join, self.inner = join, feed_forward()
        self.gamma = nn.Parameter(torch.full((16,), 0.1))

    def forward(self, x: Tensor) -> Any:
        return self.join(self, x, self.inner(x))


def in_parent(turn: Callable[..., Tensor]) -> nn.Module:
    return Stacked(turn).eval()


def in_block(join: Callable[..., Tensor]) -> nn.Module:
    return Stacked(lambda self, x, layer, number: layer(x), lambda: Joined(join)).eval()


def without(model: nn.Module, gone: Plan) -> Tensor:
    """What the whole model computes with the parameters of the branches that went set to zero."""
    whole = copy.deepcopy(model)
    for path in gone.skipped:
        module: Any = submodule(whole, path)
        for parameter in (module.inner if isinstance(module, Joined) else module).parameters():
            parameter.data.zero_()
    return whole(X)


BRANCHES: dict[str, Callable[..., Tensor]] = {
    "l(x) + x": lambda self, x, layer, at: layer(x) + x,
    "x + drop(l(norm(x)))": lambda self, x, layer, at: x + self.drop(layer(self.norms[at](x))),
    "in place": lambda self, x, layer, at: x.clone().add_(layer(x)),
    "0.2 l(x) + x": lambda self, x, layer, at: 0.2 * layer(x) + x,
    "alpha": lambda self, x, layer, at: torch.add(x, layer(x), alpha=0.3),
    "alpha of the stream": lambda self, x, layer, at: torch.add(layer(x), x, alpha=0.3),
    "scaled": lambda self, x, layer, at: (x + layer(x)) / 2**0.5,
    "weighted": lambda self, x, layer, at: x * 0.5 + layer(x) * 0.5,
    "minus": lambda self, x, layer, at: x - layer(x),
    "layer scale": lambda self, x, layer, at: x + self.gamma[at] * layer(self.norms[at](x)),
    "addcmul": lambda self, x, layer, at: torch.addcmul(x, self.gamma[at].expand_as(x), layer(x)),
    "post-norm": lambda self, x, layer, at: self.norms[at](x + layer(x)),
    "gate": lambda self, x, layer, at: self.gamma[at] * layer(x) + (1 - self.gamma[at]) * x,
}


@pytest.mark.parametrize("turn", BRANCHES)
def test_branches_written_in_the_parent_become_zeros(turn: str) -> None:
    model = in_parent(BRANCHES[turn])
    result = secateur.prune(model, X, amount=0.5, **LAYER)
    assert result.units == (4, 2)
    assert set(result.plan.factors.values()) == {0.0}
    assert torch.allclose(result.model(X), without(model, result.plan), atol=1e-6)


SUMS: dict[str, tuple[Callable[..., Tensor], float]] = {
    "x + y": (lambda self, x, y: x + y, 1.0),
    "(x + y) / sqrt 2": (lambda self, x, y: (x + y) / math.sqrt(2), 1 / math.sqrt(2)),
    "0.7 (y + x)": (lambda self, x, y: (y + x) * 0.7, 0.7),
    "0.2 y + x": (lambda self, x, y: 0.2 * y + x, 1.0),
    "alpha": (lambda self, x, y: torch.add(x, y, alpha=0.2), 1.0),
    "alpha of the stream": (lambda self, x, y: torch.add(y, x, alpha=0.2), 0.2),
    "scaled before": (lambda self, x, y: x * 0.5 + y, 0.5),
    "div_": (lambda self, x, y: (x + y).div_(2), 0.5),
    "layer scale": (lambda self, x, y: x + self.gamma * y, 1.0),
    "addcmul": (lambda self, x, y: torch.addcmul(x, self.gamma.expand_as(x), y), 1.0),
    "minus": (lambda self, x, y: x - y, 1.0),
}


@pytest.mark.parametrize("join", SUMS)
def test_a_block_without_its_branch_is_its_input_times_its_factor(join: str, tmp_path: Path) -> None:
    how, factor = SUMS[join]
    model = in_block(how)
    result = secateur.prune(model, X, amount=0.5, **LAYER)
    assert result.units == (4, 2)
    assert [result.plan.factors.get(path, 1.0) for path in result.plan.skipped] == pytest.approx([factor] * 2)
    assert torch.allclose(result.model(X), without(model, result.plan), atol=1e-6)
    secateur.save(result.model, tmp_path / "small.safetensors")
    again = secateur.load(tmp_path / "small.safetensors", in_block(how))
    assert torch.equal(again(X), result.model(X))


def test_a_stream_that_is_scaled_by_something_learned_is_not_cut() -> None:
    with pytest.raises(ModelError, match="no two residual blocks"):
        secateur.prune(in_block(lambda self, x, y: self.gamma * x + y), X, amount=0.5, **LAYER)


def test_a_normalisation_behind_the_sum_goes_with_the_block() -> None:
    model = in_block(lambda self, x, y: F.layer_norm((x + y) * 0.5, (16,)))
    assert secateur.prune(model, X, amount=0.5, **LAYER).plan.factors == {}


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Any:
        return self.mix(x), None


def test_two_branches_a_turn_are_two_blocks_each() -> None:
    def turn(self: Any, x: Tensor, layer: Any, at: int) -> Tensor:
        x = layer[0](self.norms[at](x))[0] + x
        return layer[1](self.norms[at](x)) + x

    model = Stacked(turn, lambda: nn.ModuleList([Pair(), feed_forward()])).eval()
    result = secateur.prune(model, X, amount=0.5, **LAYER)
    assert result.units == (8, 4)
    assert torch.allclose(result.model(X), without(model, result.plan), atol=1e-6)


def test_what_is_no_branch_stays() -> None:
    """A result used otherwise too, a sum with another stream, or none at all."""

    def used_twice(self: Any, x: Tensor, layer: Any, at: int) -> Tensor:
        y = layer(x)
        return x + y + y.sigmoid()

    def elsewhere(self: Any, x: Tensor, layer: Any, at: int) -> Tensor:
        return layer(x) + self.stem(X)

    for turn in (used_twice, elsewhere, lambda self, x, layer, at: layer(x)):
        with pytest.raises(ModelError, match="no two residual blocks"):
            secateur.prune(in_parent(turn), X, amount=0.5, **LAYER)


class Conditioned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix = nn.Linear(2, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor, t: Tensor) -> Any:
        return x + self.mix(x) * self.table(t)


class Conditioning(nn.Module):
    """Reads something of its first block at the end; `read` says what."""

    def __init__(self, read: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.head, self.read = nn.Linear(4, 16), nn.Linear(16, 2), read
        self.blocks = nn.ModuleList(Conditioned() for _ in range(4))
        with torch.no_grad():
            for parameter in self.blocks[0].parameters():
                parameter.mul_(0.01)  # the least important one

    def forward(self, x: Tensor, t: Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, t)
        return self.head(self.read(self, x, t))


READ: dict[str, tuple[Callable[[Any, Tensor, Tensor], Tensor], str]] = {
    "module": (lambda self, x, t: x * self.blocks[0].table(t), "its blocks.0.table is read outside it"),
    "tensor": (lambda self, x, t: x + self.blocks[0].mix.bias, "its blocks.0.mix.bias is read outside it"),
    "dtype": (lambda self, x, t: x.to(self.blocks[0].mix.weight.dtype), "reads of it what goes with it"),
}


@pytest.mark.parametrize("read", READ)
def test_a_block_of_which_something_is_read_elsewhere_stays(read: str) -> None:
    how, reason = READ[read]
    model, inputs = Conditioning(how).eval(), (torch.randn(1, 4), torch.randn(1, 2))
    result = secateur.prune(model, inputs, amount=0.25, **LAYER)
    assert reason in result.skipped["blocks.0"]
    assert result.units == (3, 2)
    assert result.model(*inputs).shape == (1, 2)
    with pytest.raises(InputError, match=r"blocks\.0 can't be left out"):
        secateur.prune(model, inputs, amount=1.0, layers=["blocks.0"], **LAYER)


def test_what_another_module_holds_too_is_no_reason_to_stay() -> None:
    model = Conditioning(lambda self, x, t: x * self.table(t)).eval()
    model.table = model.blocks[0].table
    result = secateur.prune(model, (torch.randn(1, 4), torch.randn(1, 2)), amount=0.25, **LAYER)
    assert list(result.plan.skipped) == ["blocks.0"]
    assert result.skipped == {}


def test_layers_are_named_and_all_named_go() -> None:
    model = in_block(SUMS["x + y"][0])
    one = secateur.prune(model, X, amount=1.0, layers=["layers.3"], **LAYER)
    assert list(one.plan.skipped) == ["layers.3"]
    three = secateur.prune(model, X, amount=1.0, layers=["layers.0", "layers.2", "layers.3"], **LAYER)
    assert list(three.plan.skipped) == ["layers.0", "layers.2", "layers.3"]
    every = secateur.prune(model, X, amount=1.0, layers="layers.*", **LAYER)
    assert every.units == (4, 0)
    assert torch.allclose(every.model(X), model.head(model.stem(X)), atol=1e-6)
    kept = secateur.prune(model, X, amount=1.0, keep="layers.1", layers="layers.*", **LAYER)
    assert list(kept.plan.skipped) == ["layers.0", "layers.2", "layers.3"]
    inside = secateur.prune(model, X, amount=1.0, keep="layers.1.inner.0", layers="layers.*", **LAYER)
    assert list(inside.plan.skipped) == ["layers.0", "layers.2", "layers.3"]
    assert secateur.prune(model, X, amount=1.0, **LAYER).units == (4, 1)


def test_names_that_are_no_blocks_are_refused() -> None:
    model = in_block(SUMS["x + y"][0])
    with pytest.raises(
        InputError, match=r"No residual block matches 'layers\.9': the blocks are layers\.0, layers\.1"
    ):
        secateur.prune(model, X, amount=1.0, layers="layers.9", **LAYER)
    with pytest.raises(InputError, match="No layer matches 'tail'"):
        secateur.prune(model, X, amount=0.5, keep="tail", **LAYER)


def test_a_factor_belongs_to_a_skipped_module() -> None:
    with pytest.raises(InputError, match="a factor for layers, which it does not skip"):
        Plan(factors={"layers": 0.5})
