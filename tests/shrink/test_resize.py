"""Where a size in the model's code comes from decides how it is changed: an attribute, an override, or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from structural_zoo import CASES
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.graph.cut import Cut
from secateur.graph.sizes import Attribute, evaluate
from secateur.shrink.apply import apply
from secateur.shrink.make import plan_for
from secateur.shrink.plan import Override
from secateur.shrink.resize import Settlement, settle


def halved(model: nn.Module, *inputs: Tensor) -> Cut:
    """Cut the second half of every group."""
    groups = secateur.analyze(model, inputs)
    units = [(group, np.arange(group.units) < group.units // 2) for group in groups.free]
    assert units
    return Cut.of(groups.coupling, units)


def settled(model: nn.Module, *inputs: Tensor) -> Settlement:
    """Settle half a model; where nothing fails, see that the model so changed runs to the same output shape."""
    cut = halved(model, *inputs)
    settlement = settle(cut)
    if not settlement.failures:
        plan, failures = plan_for(model, cut)
        assert not failures
        assert plan.attributes == settlement.attributes
        with torch.no_grad():
            assert apply(model, plan)(*inputs).shape == model(*inputs).shape
    return settlement


class Image(nn.Module):
    """Two layers with `code` between them."""

    def __init__(self, code: Callable[[Any, Tensor], Tensor], **held: Any) -> None:
        super().__init__()
        self.code = code
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Linear(8 * 4, 2)
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.code(self, self.first(x)))


X = torch.randn(2, 3, 2, 2)
Rewrite = tuple[Callable[[Any, Tensor], Tensor], dict[str, Any], dict[str, int]]
ATTRIBUTES: dict[str, Rewrite] = {
    "an attribute": (lambda m, h: h.view(-1, m.flat), {"flat": 32}, {":flat": 16}),
    "a product": (lambda m, h: h.view(-1, m.width * 4), {"width": 8}, {":width": 4}),
    "a product of a size and an attribute": (lambda m, h: h.view(h.shape[0], h.shape[2] * 2 * m.width),
                                             {"width": 8}, {":width": 4}),
    "an attribute of a configuration": (
        lambda m, h: h.view(-1, m.config.width * 4), {"config": SimpleNamespace(width=8)}, {":config.width": 4}),
    "an item of a tuple": (lambda m, h: h.reshape(-1, *m.shape).flatten(1), {"shape": (8, 2, 2)}, {":shape.0": 4}),
    "the layer's own attribute": (lambda m, h: h.view(-1, m.first.out_channels * 4), {},
                                  {"first:out_channels": 4}),
    "a difference": (lambda m, h: h.view(-1, m.more - 4), {"more": 36}, {":more": 20}),
    "an expression of the size cut": (lambda m, h: h.view(len(h), h.shape[1] * 4), {}, {}),
    "minus one": (lambda m, h: h.view(h.size(0), -1), {}, {}),
    "a view like another": (lambda m, h: h.view_as(h.clone()).flatten(1), {}, {}),
    "no size at all": (lambda m, h: h.relu().flatten(1), {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_change_where_they_explain_a_size(name: str) -> None:
    code, held, expected = ATTRIBUTES[name]
    model = Image(code, **held)
    settlement = settled(model, X)
    own = {path: value for path, value in settlement.attributes.items() if path not in DESCRIPTIVE}
    assert own == {path: value for path, value in expected.items() if path not in DESCRIPTIVE}
    assert expected.items() <= settlement.attributes.items()
    assert not settlement.overrides
    assert not settlement.failures


DESCRIPTIVE = {"first:out_channels", "last:in_features"}
"""Attributes of torch's own layers, which follow the parameters' shapes anyway."""

OVERRIDES: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, Any], list[tuple[str, int, Any, int]]]] = {
    "a literal": (lambda m, h: h.view(-1, 32), {}, [("torch.Tensor.view", 0, (2,), 16)]),
    "a literal shape": (lambda m, h: h.reshape((-1, 8, 4)).flatten(1), {}, [("torch.Tensor.reshape", 0, (1, 1), 4)]),
    "the second call": (lambda m, h: h.view(2, -1, 4).view(-1, 32), {}, [("torch.Tensor.view", 1, (2,), 16)]),
    "a rounded attribute": (lambda m, h: h.view(-1, int(m.flat)), {"flat": 32}, [("torch.Tensor.view", 0, (2,), 16)]),
    "an attribute used as a number too": (
        lambda m, h: (h + torch.arange(float(m.flat)).sum()).view(-1, m.flat) * F.pad(h, (0, m.flat))[..., :1].sum(),
        {"flat": 32}, [("torch.Tensor.view", 0, (2,), 16)]),
    "a slice": (
        lambda m, h: torch.cat([h[:, :2], h[:, 2:] * m.gain], 1).flatten(1),
        {"gain": nn.Parameter(torch.ones(6, 1, 1))},
        [("torch.Tensor.__getitem__", 0, (1, 1, "stop"), 1), ("torch.Tensor.__getitem__", 1, (1, 1, "start"), 1)]),
    "a split": (
        lambda m, h: torch.cat([(parts := torch.split(h, [2, 6], 1))[0], parts[1] * m.gain], 1).flatten(1),
        {"gain": nn.Parameter(torch.ones(6, 1, 1))},
        [("torch.functional.split", 0, (1, 0), 1), ("torch.functional.split", 0, (1, 1), 3)]),
    "zeros": (lambda m, h: (h + torch.zeros(2, 8, 2, 2)).flatten(1), {}, [("torch.zeros", 0, (1,), 4)]),
    "an expanded constant": (lambda m, h: (h * torch.ones(1).expand(8)[:, None, None]).flatten(1), {},
                             [("torch.Tensor.expand", 0, (1,), 4)]),
    "unflatten": (lambda m, h: h.flatten(1).unflatten(1, (8, 4)).flatten(1), {},
                  [("torch.Tensor.unflatten", 0, (2, 0), 4)]),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERRIDES)
def test_what_no_attribute_explains_is_overridden(name: str) -> None:
    code, held, expected = OVERRIDES[name]
    settlement = settled(Image(code, **held), X)
    assert set(settlement.attributes) <= DESCRIPTIVE
    assert not settlement.failures
    assert [replace(o, of=0) for o in settlement.overrides] == [
        Override("", *override) for override in expected
    ]


def test_an_override_is_of_the_innermost_module() -> None:
    inner = Image(lambda m, h: h.view(-1, 32))
    settlement = settled(nn.Sequential(nn.ReLU(), inner), X)
    assert settlement.overrides == [Override("1", "torch.Tensor.view", 0, (2,), 16, of=1)]


def test_two_attributes_of_one_size_are_solved_one_after_the_other() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(6, 12) for _ in range(3))
            self.o = nn.Linear(12, 2)
            self.heads, self.features, self.width = 4, 3, 12

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                each(x).view(*x.shape[:2], self.heads, self.features).transpose(1, 2)
                for each in (self.q, self.k, self.v)
            )
            y = F.scaled_dot_product_attention(q, k, v)
            return self.o(y.transpose(1, 2).reshape(x.shape[0], -1, self.width))

    settlement = settled(Heads(), torch.randn(2, 5, 6))
    assert {path: value for path, value in settlement.attributes.items() if path[0] == ":"} == {
        ":heads": 2,
        ":width": 6,
    }
    assert not settlement.overrides


def test_uses_that_disagree_are_overridden_each() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.o = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.width = 8

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).view(-1, self.width)
            return self.o(self.b(x).view(-1, self.width))

    model = Two()
    groups = secateur.analyze(model, torch.randn(3, 4)).free
    assert [group.units for group in groups] == [8, 8]
    keep = [np.arange(8) < 6, np.arange(8) < 3]
    coupling = secateur.analyze(model, torch.randn(3, 4)).coupling
    settlement = settle(Cut.of(coupling, zip(groups, keep, strict=True)))
    assert ":width" not in settlement.attributes
    assert [(o.nth, o.value) for o in settlement.overrides] == [(0, 6), (1, 3)]


def test_a_module_that_runs_twice_with_different_needs_can_not_follow() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1, 8)

    flat = Flat()
    model = nn.Sequential(nn.Linear(4, 8), flat, nn.Linear(8, 8), flat, nn.Linear(8, 2))
    groups = secateur.analyze(model, torch.randn(3, 4))
    keep = [np.arange(8) < 6, np.arange(8) < 3]
    settlement = settle(Cut.of(groups.coupling, zip(groups.free, keep, strict=True)))
    ((call, reason),) = settlement.failures
    assert groups.coupling.program.calls[call].name == "torch.Tensor.view"
    assert (
        reason
        == "the code fixes a size in torch.Tensor.view, and runs there several times with different needs"
    )

    alike = settle(Cut.of(groups.coupling, [(group, np.arange(8) < 6) for group in groups.free]))
    assert not alike.failures
    assert [(o.module, o.value) for o in alike.overrides] == [("1", 6)]


class Flat(nn.Module):
    def forward(self, x: Tensor, again: bool) -> Tensor:
        return x.view(-1, 8).view(-1, 8) if again else x.view(-1, 8)


class Twice(nn.Module):
    """Runs one module twice, which makes one call the first time and two the second."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.flat, self.free = Flat(), nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))
        self.first, self.carry, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.tied = tied

    def forward(self, x: Tensor) -> Tensor:
        h = self.flat(self.first(self.free(x)), again=False)
        out: Tensor = self.last(self.flat(h + self.carry(h) if self.tied else self.carry(h), again=True))
        return out


def test_a_module_that_makes_other_calls_each_time_it_runs_needs_the_same_in_all() -> None:
    model, x = Twice(tied=True), torch.randn(3, 4)
    groups = secateur.analyze(model, x)
    settlement = settle(
        Cut.of(groups.coupling, [(group, np.arange(group.units) < 3) for group in groups.free])
    )
    assert not settlement.failures
    assert settlement.overrides == [Override("flat", "torch.Tensor.view", 0, (2,), 3, instead_of=8)]
    result = secateur.prune(model, x, granularity="channel", amount=0.5, scope="local")
    assert result.kept["first.weight"] == 4
    assert result.model(x).shape == (3, 2)


def test_a_module_that_makes_other_calls_each_time_it_runs_is_left_alone_if_they_need_others() -> None:
    groups = secateur.analyze(Twice(tied=False), torch.randn(3, 4))
    left = {"first.weight": 3, "carry.weight": 5}
    cut = Cut.of(groups.coupling, [(g, np.arange(g.units) < left.get(g.name, 6)) for g in groups.free])
    reason = (
        "the code fixes a size in torch.Tensor.view, and runs there several times with "
        "another number of such calls each time"
    )
    assert {why for _, why in settle(cut).failures} == {reason}


def test_a_range_that_is_computed_where_nobody_looks_is_a_failure() -> None:
    def code(m: Any, h: Tensor) -> Tensor:
        return torch.cat([h[:, :2], torch.ops.aten.slice(h, 1, 2) * m.gain], 1).flatten(1)

    settlement = settle(halved(Image(code, gain=nn.Parameter(torch.ones(6, 1, 1))), X))
    assert [reason for _, reason in settlement.failures] == [
        "the code computes a range of it in a way that can't be followed"
    ]


def test_numbers_to_compute_with_stay_what_they_are() -> None:
    model = Image(lambda m, h: (h / m.width).flatten(1) / math.sqrt(m.width) * h.shape[1] ** -0.5, width=8)
    settlement = settled(model, X)
    assert ":width" not in settlement.attributes
    assert [(o.function, o.value) for o in settlement.overrides] == [("torch.Tensor.mul", 8**-0.5)]


def test_nothing_cut_changes_nothing() -> None:
    model = Image(lambda m, h: h.view(-1, m.flat), flat=32)
    groups = secateur.analyze(model, X)
    everything = [(group, np.ones(group.units, dtype=bool)) for group in groups.free]
    assert settle(Cut.of(groups.coupling, everything)) == Settlement()
    assert plan_for(model, Cut.of(groups.coupling, everything))[0].empty


@pytest.mark.parametrize("name", CASES)
def test_attributes_and_overrides_are_of_numbers_that_are_there(name: str) -> None:
    case = CASES[name]()
    groups = secateur.analyze(case.model, case.inputs)
    cut = Cut.of(
        groups.coupling, [(group, np.arange(group.units) < (group.units + 1) // 2) for group in groups.free]
    )
    settlement, program = settle(cut), groups.coupling.program
    for path, value in settlement.attributes.items():
        assert 0 <= value != program.attributes[path], path
    by_place = {(c.module, c.name, c.nth[c.module]): c for c in program.calls}
    for override in settlement.overrides:
        call = by_place[override.module, override.function, override.nth]
        place: Any = call.args if isinstance(override.argument[0], int) else call.kwargs
        for step in override.argument:
            place = getattr(place, step) if isinstance(place, slice) else place[step]

        def leaf(origin: Any, old: int) -> int:
            if isinstance(origin, Attribute):
                return settlement.attributes.get(origin.path, old)
            return cut.shape(origin.value)[origin.dim]

        assert evaluate(place, leaf) != override.value, "an override that changes nothing"
