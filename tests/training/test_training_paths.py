"""Code that only runs in training mode, such as auxiliary heads, follows a cut like the rest."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cuts import cut_of
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.contexts import own_code_training
from secateur.core.errors import VerificationError
from secateur.graph.trace import trace
from secateur.measure.cost import cost
from secateur.shrink.verify import verify

HALF = {"granularity": "channel", "amount": 0.5, "scope": "local"}
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Auxiliary(nn.Module):
    """A classifier with a second head that is read in training mode only, through `code`."""

    def __init__(self, code: Callable[[Any, Tensor], Tensor] = lambda m, h: h) -> None:
        super().__init__()
        self.stem, self.hidden, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.aux = nn.Sequential(
            nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)
        )
        self.code = code

    def forward(self, x: Tensor) -> Any:
        h = self.stem(x).relu()
        y = self.head(self.hidden(h).relu())
        return (y, self.aux(self.code(self, h))) if self.training else y


def drop_path(m: Any, h: Tensor) -> Tensor:
    return h * h.new_empty(len(h), 1).bernoulli_(0.5)


CODES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "nothing else": lambda m, h: h,
    "dropout": lambda m, h: F.dropout(h, 0.5, m.training),
    "noise": lambda m, h: h + torch.randn_like(h) * h,
    "stochastic depth": drop_path,
    "a mean over features": lambda m, h: h - h.mean(1, keepdim=True),
    "an expression of a size": lambda m, h: h.view(-1, h.shape[1]),
}


@pytest.mark.parametrize("name", CODES)
def test_a_head_for_training_is_cut_along(name: str) -> None:
    torch.manual_seed(0)
    model = Auxiliary(CODES[name])
    result = secateur.prune(model, X, **HALF)
    assert result.verification.error <= 1e-9
    assert result.verification.compared == 2 * 4 * 3 + 4 * 3
    assert result.model.aux[0].weight.shape == (4, 8)
    assert not any("do not reach" in reason for reason in result.skipped.values())
    result.model.train()
    main, aux = result.model(X)
    (main.sum() + aux.sum()).backward()
    assert all(parameter.grad is not None for parameter in result.model.parameters())
    assert model.training


def test_a_changed_weight_of_a_head_for_training_is_caught() -> None:
    torch.manual_seed(0)
    model = Auxiliary()
    result = secateur.prune(model, X, **HALF)
    with torch.no_grad():
        result.model.aux[0].weight[:] += 1
    with pytest.raises(VerificationError, match="differs from the large one"):
        verify(model, result.model, cut_of(result), X)


def test_what_is_counted_is_a_pass_in_eval_mode() -> None:
    model = Auxiliary()
    result = secateur.prune(model, X, **HALF)
    assert result.macs == tuple(cost(each, X).macs for each in (model, result.model))
    assert result.macs[0] == 4 * (6 * 16 + 16 * 16 + 16 * 3)


def test_a_size_written_into_code_that_only_training_runs_follows() -> None:
    torch.manual_seed(0)
    result = secateur.prune(Auxiliary(lambda m, h: h.view(-1, 16)), X, **HALF)
    assert (result.kept["stem.weight"], result.kept["hidden.weight"]) == (8, 8)
    result.model.train()
    assert [tuple(output.shape) for output in result.model(X)] == [(4, 3), (4, 3)]


class DropsLayers(nn.Module):
    """Leaves out layers at random in training mode, where a token of its own stands for some samples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.token = nn.Linear(6, 8), nn.Linear(8, 3), nn.Parameter(torch.randn(8))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        if self.training:
            h = torch.where(torch.rand(len(h), 1) < 0.5, self.token, h)
        for layer in self.layers:
            if not self.training or (random.random() < 0.5) == (np.random.rand() < 0.5):  # noqa: NPY002
                h = h + layer(h).relu()
        return self.head(h)


def test_chance_is_the_same_each_time_and_nobody_elses() -> None:
    def state() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    model, before = DropsLayers(), state()
    calls = [len(trace(model, X, training=True).calls) for _ in range(4)]
    result = secateur.prune(model, X, **HALF)
    assert state() == before
    assert len(set(calls)) == 1
    assert result.verification.error <= 1e-9
    assert result.model.token.shape == (4,)


class NeedsTargets(Auxiliary):
    """Its code for training takes what the example inputs do not have."""

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Any:
        h = self.stem(x).relu()
        if self.training:
            return F.cross_entropy(self.aux(h), targets)
        return self.head(self.hidden(h).relu())


def test_what_no_mode_reaches_is_left_alone_and_listed() -> None:
    result = secateur.prune(NeedsTargets(), X, **HALF)
    assert result.skipped["aux.0.weight"] == "these example inputs do not reach it (the model)"
    assert result.model.aux[0].weight.shape == (8, 16)
    assert result.model.eval()(X).shape == (4, 3)


def test_a_model_that_is_reached_runs_once() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    program = trace(model, X, training=True)
    assert len(program.passes) == 1
    assert program.evaluation == program.nodes


def test_only_the_models_own_code_is_in_training_mode() -> None:
    class Joined(nn.Sequential):
        pass

    model = nn.Sequential(Auxiliary(), Joined(nn.Dropout(), nn.BatchNorm1d(3)), nn.LSTM(2, 2)).eval()
    with own_code_training(model):
        on = {name for name, module in model.named_modules() if module.training}
    assert on == {"", "0", "0.aux", "1"}
    assert not any(module.training for module in model.modules())


def test_googlenet_trains_after_a_cut() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = models.googlenet(weights=None, aux_logits=True, init_weights=False).eval()
    x = torch.rand(2, 3, 64, 64)
    result = secateur.prune(model, x, **HALF)
    assert result.verification.error <= 1e-9
    assert result.model.aux1.conv.conv.weight.shape[:2] == (64, 256)
    assert [output.shape for output in result.model.train()(x)] == [(2, 1000)] * 3
