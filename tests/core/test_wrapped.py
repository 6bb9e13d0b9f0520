"""Wrapped and compiled models: masks, cuts, measurements and files mean the module inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel

import secateur
from secateur import models
from secateur.core.errors import InputError
from secateur.core.naming import bare, matched, unwrapped_name
from secateur.core.wrapped import unwrapped
from secateur.measure import statistics

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def inside(model: Any) -> Any:
    model[0] = compiled(model[0])
    return model


WRAPS: dict[str, Callable[[nn.Module], Any]] = {
    "parallel": DataParallel,
    "compiled": compiled,
    "compiled parallel": lambda model: compiled(DataParallel(model)),
    "parallel compiled": lambda model: DataParallel(compiled(model)),
    "averaged": AveragedModel,
}


@pytest.mark.parametrize("name", [*WRAPS, "inside"])
def test_masks_are_held_under_any_wrapper(name: str) -> None:
    result = secateur.prune(net(), amount=0.5)
    wrapped: Any = (WRAPS | {"inside": inside})[name](result.model)
    optimizer = torch.optim.Adam(wrapped.parameters(), 0.1)
    before = [each.detach().clone() for each in wrapped.parameters()]
    with result.masks.hold(wrapped, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            wrapped(X).square().sum().backward()
            optimizer.step()
    assert not all(torch.equal(one, other) for one, other in zip(before, wrapped.parameters(), strict=True))
    again = secateur.Masks.of_zeros(wrapped)
    own = matched(result.masks, again)
    assert all(torch.equal(again[own[key]], mask) for key, mask in result.masks.items())
    result.masks.apply_(wrapped)


@pytest.mark.parametrize("grain", ["weight", "channel"])
@pytest.mark.parametrize("name", WRAPS)
def test_a_wrapped_model_is_cut_like_the_module_inside(name: str, grain: str) -> None:
    inputs = (X,) if grain == "channel" else ()
    expected = secateur.prune(
        net(), *inputs, amount=0.5, granularity=grain, keep=["2"] if grain == "weight" else ()
    )
    wrapped = WRAPS[name](net())
    own = next(key for key, _ in wrapped.named_parameters() if key.endswith("2.weight")).removesuffix(
        ".weight"
    )
    found = secateur.prune(
        wrapped, *inputs, amount=0.5, granularity=grain, keep=[own] if grain == "weight" else ()
    )
    assert type(found.model) is nn.Sequential
    assert all(
        torch.equal(one, other)
        for one, other in zip(found.model.parameters(), expected.model.parameters(), strict=True)
    )
    assert list(found.masks) == list(expected.masks)
    changed = secateur.prune(wrapped, *inputs, amount=0.5, granularity=grain, inplace=True)
    assert changed.model is wrapped
    assert wrapped(X).shape == (4, 4)


@pytest.mark.parametrize("name", WRAPS)
def test_earlier_masks_with_the_names_of_the_wrapper(name: str) -> None:
    first = secateur.prune(net(), amount=0.5)
    wrapped = WRAPS[name](first.model)
    names = matched(first.masks, dict(wrapped.named_parameters()))
    prefixed = secateur.Masks({names[key]: mask for key, mask in first.masks.items()})
    for masks in (first.masks, prefixed):
        second = secateur.prune(wrapped, amount=0.75, masks=masks)
        assert second.masks.sparsity == pytest.approx(0.75, abs=0.01)
        assert not any(bool((second.masks[key] & ~mask).any()) for key, mask in first.masks.items())
        assert statistics(wrapped, masks).pruned == first.masks.pruned
        assert secateur.measure(wrapped, X, masks, latency=False).nonzero == statistics(first.model).nonzero


@pytest.mark.parametrize("name", WRAPS)
def test_what_is_found_and_measured_is_the_module_inside(name: str) -> None:
    wrapped, own = WRAPS[name](net()), net()
    assert [each.name for each in secateur.analyze(wrapped, X)] == [
        each.name for each in secateur.analyze(own, X)
    ]
    assert secateur.measure(wrapped, X, latency=False) == secateur.measure(own, X, latency=False)
    assert statistics(wrapped) == statistics(own)
    assert secateur.safe_rate(wrapped).safe == secateur.safe_rate(own).safe


@pytest.mark.parametrize("name", WRAPS)
def test_files_hold_the_module_inside(name: str, tmp_path: Path) -> None:
    result = secateur.prune(net(), amount=0.5)
    path = tmp_path / "model.safetensors"
    secateur.save(WRAPS[name](result.model), path, masks=result.masks)
    assert list(secateur.load_masks(path)) == list(result.masks)
    for into in (net(), WRAPS[name](net())):
        with torch.no_grad():
            for tensor in into.parameters():
                tensor.zero_()
        assert secateur.load(path, into) is into
        assert all(map(torch.equal, into.parameters(), result.model.parameters()))


@pytest.mark.parametrize("name", [*WRAPS, "inside"])
def test_checkpoints_with_prefixes_are_loaded_into_any_form(name: str, tmp_path: Path) -> None:
    wrapped = (WRAPS | {"inside": inside})[name](net())
    state = {key: value for key, value in wrapped.state_dict().items() if key != "n_averaged"}
    torch.save(state, tmp_path / "weights.pt")
    for target in (net(), DataParallel(net()), compiled(net()), inside(net())):
        with torch.no_grad():
            for tensor in target.parameters():
                tensor.zero_()
        models.load_weights(target, tmp_path / "weights.pt")
        assert all(map(torch.equal, target.parameters(), net().parameters()))


def test_an_optimiser_of_another_model_is_refused() -> None:
    model = net()
    result = secateur.prune(model, amount=0.5)
    with pytest.raises(
        InputError, match=r"holds none of the model's parameters: make it from model\.parameters"
    ):
        result.masks.hold(result.model, torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(InputError, match=r"The optimiser is a str: pass a torch\.optim\.Optimizer"):
        result.masks.hold(result.model, "sgd")  # type: ignore[arg-type]
    part = torch.optim.SGD(result.model[2].parameters(), 0.1)  # type: ignore[index]
    result.masks.hold(result.model, part).remove()


def test_an_optimiser_that_is_wrapped_itself_is_held() -> None:
    result = secateur.prune(net(), amount=0.5)

    class Outer:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    optimizer = torch.optim.SGD(result.model.parameters(), 0.1, weight_decay=0.5)
    with result.masks.hold(result.model, Outer(Outer(optimizer))):  # type: ignore[arg-type]
        result.model(X).sum().backward()
        optimizer.step()
    assert torch.equal(secateur.Masks.of_zeros(result.model)["0.weight"], result.masks["0.weight"])


@pytest.mark.parametrize(
    ("name", "plain"),
    {
        "module.0.weight": "0.weight",
        "module.module.0.weight": "0.weight",
        "_orig_mod.module.0.weight": "0.weight",
        "0._orig_mod.weight": "0.weight",
        "0.module.weight": "0.module.weight",
        "_fsdp_wrapped_module.0._fsdp_wrapped_module.weight": "0.weight",
        "net.my_orig_mod.weight": "net.my_orig_mod.weight",
    }.items(),
)
def test_names(name: str, plain: str) -> None:
    assert unwrapped_name(name) == plain
    assert bare(name) == plain


def test_names_that_are_not_clear_are_not_matched() -> None:
    assert matched(["module.a"], ["a", "module.a"]) == {"module.a": "module.a"}
    assert matched(["_orig_mod.a"], ["a", "module.a"]) == {}
    assert unwrapped(net()).__class__ is nn.Sequential
