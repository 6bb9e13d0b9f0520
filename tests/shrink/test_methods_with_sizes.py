"""Sizes written in methods other than forward follow a cut wherever the method is called from."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cuts import zero_what_went
from torch import Tensor, nn

import secateur
from secateur.core.errors import ModelError
from secateur.shrink.apply import apply
from secateur.shrink.plan import Override, Plan


class AutoEncoder(nn.Module):
    """A variational autoencoder with literal sizes in `encode` and `decode`."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.mu, self.spread, self.up = nn.Linear(512, 8), nn.Linear(512, 8), nn.Linear(8, 512)
        self.dec = nn.Sequential(nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU(), nn.ConvTranspose2d(16, 3, 2, 2))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.enc(x).view(-1, 32 * 4 * 4)
        return self.mu(code), self.spread(code)

    def decode(self, z: Tensor) -> Tensor:
        image: Tensor = self.dec(self.up(z).view(-1, 32, 4, 4))
        return image

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mean, spread = self.encode(x)
        return self.decode(mean + torch.randn_like(mean) * (spread / 2).exp()), mean, spread


IMAGES = torch.randn(2, 3, 16, 16)


def cut(model: nn.Module, inputs: Tensor = IMAGES) -> secateur.Pruned:
    return secateur.prune(model.eval(), inputs, granularity="channel", amount=0.5, scope="local")


def test_encode_and_decode_work_alone() -> None:
    model = AutoEncoder().double()
    result = cut(model, IMAGES.double())
    small, large = result.model, zero_what_went(model, result)
    assert result.parameters is not None
    assert result.parameters[1] < 0.5 * result.parameters[0]
    assert isinstance(small, AutoEncoder)
    assert isinstance(large, AutoEncoder)
    torch.testing.assert_close(small.encode(IMAGES.double()), large.encode(IMAGES.double()))
    z = torch.randn(5, 8).double()
    torch.testing.assert_close(small.decode(z), large.decode(z))
    assert "overridden in encode, decode: torch.fx and torch.jit.script" in result.summary()


def test_the_methods_are_stored_and_loaded_with_the_model(tmp_path: Path) -> None:
    result = cut(AutoEncoder())
    secateur.save(result.model, tmp_path / "small.safetensors")
    loaded = secateur.load(tmp_path / "small.safetensors", AutoEncoder())
    assert isinstance(loaded, AutoEncoder)
    z = torch.randn(3, 8)
    assert isinstance(result.model, AutoEncoder)
    assert torch.equal(loaded.decode(z), result.model.decode(z))


def test_a_second_cut_follows_the_first() -> None:
    once = cut(AutoEncoder()).model
    twice = cut(once)
    assert isinstance(twice.model, AutoEncoder)
    assert twice.model.decode(torch.randn(3, 8)).shape == (3, 3, 16, 16)
    assert twice.model.up.out_features < 256


class Base(nn.Module):
    """Two layers around a shape that `split` writes as literals."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 12), nn.Linear(12, 3)

    def split(self, x: Tensor) -> Tensor:
        return x.view(-1, 3, 4).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.split(self.a(x)))
        return out


class Inherited(Base):
    def split(self, x: Tensor) -> Tensor:
        return super().split(x) * 2


class Decorated(Base):
    @torch.no_grad()
    def split(self, x: Tensor) -> Tensor:
        return x.view(-1, 3, 4).flatten(1)


class Recursive(Base):
    def split(self, x: Tensor, depth: int = 2) -> Tensor:
        return self.split(x, depth - 1).view(-1, 3, 4).flatten(1) if depth else x


class FromAProperty(Base):
    @property
    def shaped(self) -> Tensor:
        return self.seen.view(-1, 3, 4).flatten(1)

    def split(self, x: Tensor) -> Tensor:
        self.seen = x
        return self.shaped


class FromAGenerator(Base):
    def parts(self, x: Tensor) -> Iterator[Tensor]:
        yield x.view(-1, 3, 4)

    def split(self, x: Tensor) -> Tensor:
        (part,) = self.parts(x)
        return part.flatten(1)


class Private(Base):
    def __shaped(self, x: Tensor) -> Tensor:
        return x.view(-1, 3, 4)

    def split(self, x: Tensor) -> Tensor:
        return self.__shaped(x).flatten(1)


class Static(Base):
    @staticmethod
    def shaped(x: Tensor) -> Tensor:
        return x.view(-1, 3, 4)

    def split(self, x: Tensor) -> Tensor:
        return self.shaped(x).flatten(1)


class Twice(Base):
    """Calls the method once inside another and once alone."""

    def outer(self, x: Tensor) -> Tensor:
        return self.split(x)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.outer(self.a(x)) + self.split(self.a(x)))
        return out


KINDS = [Base, Inherited, Decorated, Recursive, FromAProperty, FromAGenerator, Private, Static, Twice]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_any_method_follows_from_wherever_it_is_called(kind: type[Base]) -> None:
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(5, 4).double()
    result = cut(model, x)
    assert isinstance(result.model, Base)
    assert result.model.a.out_features < 12
    alone = result.model.split(result.model.a(x))
    torch.testing.assert_close(result.model(x), zero_what_went(model, result)(x))
    if kind not in (Recursive, Twice):
        torch.testing.assert_close(result.model.b(alone), result.model(x))


def test_compiled_as_one_graph_it_gives_the_same() -> None:
    small = cut(Base(), torch.randn(5, 4)).model
    x = torch.randn(5, 4)
    torch.testing.assert_close(torch.compile(small, backend="eager", fullgraph=True)(x), small(x))


@pytest.mark.parametrize("method", ["nothing", "eval", "a", "shaped", "__init__"])
def test_a_plan_names_methods_of_the_model_alone(method: str) -> None:
    plan = Plan(overrides=(Override("", "torch.Tensor.view", 0, (2,), 2, method=method),))
    with pytest.raises(ModelError, match="is no method of this model"):
        apply(FromAProperty(), plan)


class Shared(nn.Module):
    """Runs one helper with a literal on two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (
            nn.Linear(3, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 20),
            nn.Linear(20, 2),
        )

    def split(self, x: Tensor) -> Tensor:
        return x.view(-1, 16).relu()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.d(self.c(self.split(self.b(self.split(self.a(x))))))
        return out


def test_groups_that_share_a_literal_and_need_others_stay() -> None:
    x = torch.randn(4, 3)
    result = secateur.prune(Shared(), x, granularity="channel", amount=0.5, scope="local", keep=["a.weight"])
    assert {name: result.kept.get(name) for name in ("b.weight", "c.weight")} == {
        "b.weight": 16,
        "c.weight": 10,
    }
    together = cut(Shared(), x)
    assert [together.kept[name] for name in ("a.weight", "b.weight", "c.weight")] == [8, 8, 10]


class Recurrent(nn.Module):
    """Starts from zeros of a literal width, made once: kept on itself, or in a cache."""

    def __init__(self, kept: str) -> None:
        super().__init__()
        self.i, self.h, self.o, self.free = (
            nn.Linear(4, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 6),
            nn.Linear(6, 2),
        )
        self.kept = kept
        self.start: Tensor | None = None

    @functools.lru_cache  # noqa: B019
    def cached(self, samples: int) -> Tensor:
        return torch.zeros(samples, 16)

    def first(self, samples: int) -> Tensor:
        if self.kept != "itself":
            return self.cached(samples) if self.kept == "a method" else cached_zeros(samples, 16)
        if self.start is None or self.start.shape[0] != samples:
            self.start = torch.zeros(samples, 16)
        return self.start

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.shape[0])
        for at in range(x.shape[1]):
            h = torch.tanh(self.i(x[:, at]) + self.h(h))
        out: Tensor = self.free(self.o(h).relu())
        return out


@functools.lru_cache
def cached_zeros(samples: int, width: int) -> Tensor:
    return torch.zeros(samples, width)


@pytest.mark.parametrize("kept", ["itself", "a method", "a function"])
def test_what_code_keeps_from_an_earlier_run_does_not_break_the_next(kept: str) -> None:
    model, x = Recurrent(kept), torch.rand(2, 5, 4)
    before = model.eval()(x)
    result = cut(model, x)
    assert result.kept["o.weight"] == 3
    assert torch.equal(result.model(x), result.model(x))
    assert torch.equal(model(x), before)
    assert cached_zeros(2, 16).shape == (2, 16)
