"""Copies of models: what is held unregistered, functions that speak of the model, and what can't be copied."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

import secateur
from secateur.core.copying import duplicate
from secateur.core.errors import ModelError

X = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))


class Slots:
    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@dataclass(frozen=True, slots=True)
class Record:
    tensor: Tensor


Pair = namedtuple("Pair", "first second")


class Policy(nn.Module):
    """A network that keeps something of its last pass in a plain object."""

    def __init__(self, keep: Callable[[Tensor], Any] = lambda y: None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, 4))
        self.seen = SimpleNamespace()
        self.keep = keep

    def forward(self, x: Tensor) -> Any:
        y = self.net(x)
        self.seen.last = self.keep(y)
        return y


KEPT: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda y: y,
    "view": lambda y: y.view(-1)[:2],
    "expanded": lambda y: y[:1].expand(7, 4),
    "slots": Slots,
    "dataclass": Record,
    "namedtuple": lambda y: Pair(y, [y]),
    "objects in a list": lambda y: [SimpleNamespace(t=y), SimpleNamespace(t={"a": (y,)})],
    "deep": lambda y: SimpleNamespace(
        a=[SimpleNamespace(b={"c": SimpleNamespace(d=[SimpleNamespace(e=y)])})]
    ),
    "normal": lambda y: Normal(y, torch.ones_like(y)),
    "categorical": lambda y: Categorical(logits=y),
    "independent": lambda y: Independent(Normal(y, 1.0), 1).expand(torch.Size((3, len(y)))),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kept", KEPT)
def test_tensors_of_an_earlier_pass_may_be_held_anywhere(kept: str, grad: bool) -> None:
    model = Policy(KEPT[kept]).eval()
    with torch.set_grad_enabled(grad):
        model(X)
    last = model.seen.last
    result = secateur.prune(model, X, granularity="channel", amount=0.5, scope="local")
    assert result.parameters == (1092, 548)
    assert model.seen.last is last
    assert secateur.prune(model, amount=0.5).model is not model
    secateur.prune(model, X, granularity="channel", amount=0.5, scope="local", inplace=True)
    assert model.net[0].weight.shape == (32, 12)


def closure(model: Policy) -> None:
    model.act = lambda x: model.net(x)


def default(model: Policy) -> None:
    model.act = lambda x, net=model.net: net(x)


def part(model: Policy) -> None:
    model.act = functools.partial(lambda scale, x: model.net(x) * scale, 1.0)


def nested(model: Policy) -> None:
    inner = lambda x: model.net(x)  # noqa: E731
    model.act = lambda x: inner(x)


def in_object(model: Policy) -> None:
    held = SimpleNamespace(call=[lambda x: model.net(x)])
    model.tools = held
    model.act = lambda x: model.tools.call[0](x)


def reference(model: Policy) -> None:
    model.net_of = weakref.ref(model.net)
    model.act = lambda x: model.net_of()(x)


def proxy(model: Policy) -> None:
    object.__setattr__(model, "net_of", weakref.proxy(model.net))
    model.act = lambda x: model.net_of(x)


class Acting(Policy):
    act: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Any:
        return self.act(x)


@pytest.mark.parametrize("give", [closure, default, part, nested, in_object, reference, proxy])
def test_functions_that_a_model_holds_speak_of_its_copy(give: Callable[[Policy], None]) -> None:
    model = Acting().eval()
    give(model)
    other = duplicate(model)
    with torch.no_grad():
        model.net[2].bias.add_(1.0)
    assert torch.allclose(other(X) + 1, model(X), atol=1e-5)
    result = secateur.prune(model, X, granularity="channel", amount=0.5, scope="local")
    assert result.parameters == (1092, 548)
    assert model.net[0].weight.shape == (64, 12)


class Refusing(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise NotImplementedError("not this one")


def lock(model: Policy) -> None:
    model.seen.tools = [SimpleNamespace(lock=threading.RLock())]


def generator(model: Policy) -> None:
    model.numbers = (number for number in range(3))


def hook(model: Policy) -> None:
    model.net.register_forward_hook(functools.partial(lambda held, *_: None, threading.Lock()))


def refusing(model: Policy) -> None:
    model.net[0] = Refusing(12, 64)


NAMED = {
    lock: r"its attribute seen\.tools\[0\]\.lock, of type RLock",
    generator: "its attribute numbers, of type generator",
    hook: r"its attribute net\._forward_hooks",
    refusing: r"its module net\.0, of type Refusing: not this one",
}


@pytest.mark.parametrize("granularity", ["weight", "channel"])
@pytest.mark.parametrize("give", NAMED)
def test_what_cannot_be_copied_is_named_and_the_model_itself_is_cut(
    give: Callable[[Policy], None], granularity: str
) -> None:
    model = Policy().eval()
    give(model)
    with pytest.raises(ModelError, match=rf"can't be copied \({NAMED[give]}.*inplace=True"):
        secateur.prune(model, X, granularity=granularity, amount=0.5)
    result = secateur.prune(model, X, granularity=granularity, amount=0.5, inplace=True)
    assert result.model is model
    assert model(X).shape == (2, 4)


class Uncopyable(nn.Module):
    """Two attention layers in residual blocks, and a lock."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attending() for _ in range(3))
        self.out = nn.Linear(16, 3)
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Any:
        with self.lock:
            for block in self.blocks:
                x = block(x)
            return self.out(x)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return x + self.attention(x, x, x)[0]


@pytest.mark.parametrize("granularity", ["weight", "channel", "head", "layer"])
def test_a_model_with_a_lock_is_cut_in_place_by_every_granularity(granularity: str) -> None:
    model = Uncopyable().eval()
    x = torch.randn(1, 5, 16)
    result = secateur.prune(model, x, granularity=granularity, amount=0.5, inplace=True)
    assert result.model is model
    assert result.achieved > 0
    assert model(x).shape == (1, 5, 3)


def test_a_failed_proof_leaves_a_model_that_cannot_be_copied_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Policy().eval()
    lock(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    monkeypatch.setattr(
        "secateur.shrink.verify.VERIFICATION_TOLERANCE", {torch.float64: -1.0, torch.float32: -1.0}
    )
    with pytest.raises(ModelError):
        secateur.prune(model, X, granularity="channel", amount=0.5, inplace=True)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_modules_of_python_and_loggers_are_shared() -> None:
    model = Policy().eval()
    model.functional, model.log = nn.functional, logging.getLogger("policy")
    other = duplicate(model)
    assert other.functional is nn.functional
    assert other.log is model.log
