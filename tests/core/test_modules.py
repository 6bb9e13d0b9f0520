"""Models that use the names of torch's methods for something else are seen, cut, stored and run all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import ModelError
from secateur.core.modules import (
    buffers_of,
    modules_of,
    named_modules,
    named_parameters,
    set_mode,
    submodule,
    tensors_replaced,
)

NAMES = (
    "parameters", "modules", "children", "train", "buffers", "named_parameters", "named_modules", "named_buffers",
    "get_submodule", "get_parameter", "eval", "to", "apply", "state_dict", "register_buffer", "type", "zero_grad",
)  # fmt: skip
X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """Two layers, and something under a name of `nn.Module`'s."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.more()

    def more(self) -> None: ...

    def forward(self, x: Tensor) -> Any:
        return self.b(self.a(x).relu())


def with_child(name: str) -> Plain:
    """A model with its tensors in a child of that name, too."""

    def more(self: Plain) -> None:
        own = [*self.a._parameters.values(), *self.b._parameters.values()]
        setattr(self, name, nn.ParameterList(own))

    return type("WithChild", (Plain,), {"more": more})()


def with_list(name: str) -> Plain:
    """A model with a list of its layers under that name."""
    return type(
        "WithList", (Plain,), {"more": lambda self: object.__setattr__(self, name, [self.a, self.b])}
    )()


def with_method(name: str) -> Plain:
    """A model whose class gives the name to a method that takes something else."""

    def other(self: Plain, data: Any) -> None:
        raise AssertionError("nobody may call this")

    return type("WithMethod", (Plain,), {name: other})()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("build", [with_child, with_list, with_method])
def test_names_of_methods_are_free_to_use(build: Callable[[str], Plain], name: str) -> None:
    model = build(name)
    result = secateur.prune(model, X, granularity="channel", amount=0.5, scope="local")
    assert result.parameters == (212, 108)
    assert result.model.a.weight.shape == (8, 8)
    assert result.model(X).shape == (3, 4)
    if build is with_child:
        assert result.model._modules[name][0] is result.model.a.weight  # type: ignore[index]
    assert secateur.measure(model, X).parameters == 212


def test_a_child_named_parameters_is_scored_by_flow_and_stored(tmp_path: Path) -> None:
    result = secateur.prune(
        with_child("parameters"), X, granularity="channel", amount=0.5, scope="local", criterion="synflow"
    )
    secateur.save(result.model, tmp_path / "small.safetensors")
    again = secateur.load(tmp_path / "small.safetensors", with_child("parameters"))
    assert torch.equal(again(X), result.model(X))
    assert again._modules["parameters"][0] is again.a.weight  # type: ignore[index]


def test_what_is_found_is_what_torch_finds() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)))
    model.append(model[0])  # one module by two names
    for once in (True, False):
        assert list(named_modules(model, remove_duplicate=once)) == list(
            model.named_modules(remove_duplicate=once)
        )
        ours = [*named_parameters(model, remove_duplicate=once)]
        theirs = [*model.named_parameters(remove_duplicate=once)]
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert all(one is other for (_, one), (_, other) in zip(ours, theirs, strict=True))
    assert list(modules_of(model)) == list(model.modules())
    assert [id(buffer) for buffer in buffers_of(model)] == [id(buffer) for buffer in model.buffers()]
    assert submodule(model, "1.0") is model[1][0]
    with pytest.raises(ModelError, match=r"Sequential has no module 1\.7"):
        submodule(model, "1.7")


def test_a_mode_is_set_by_a_train_that_takes_one_and_by_no_other() -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self[0].eval()
            return self

    class Trained(nn.Sequential):
        def train(self, data: Any) -> Any:  # type: ignore[override]
            raise AssertionError("nobody may call this")

    model = Trained(Frozen(nn.Dropout(), nn.Dropout()))
    set_mode(model, True)
    assert [module.training for module in modules_of(model)] == [True, True, False, True]
    set_mode(model, False)
    assert not any(module.training for module in modules_of(model))


def test_tensors_are_replaced_wherever_they_stand_and_come_back() -> None:
    model = with_child("parameters")
    before = model(X)
    with tensors_replaced(model, {"a.weight": torch.zeros(16, 8), "b.bias": torch.ones(4)}):
        assert model._modules["parameters"]._parameters["0"].abs().sum() == 0  # type: ignore[union-attr]
        assert not torch.equal(model(X), before)
    assert torch.equal(model(X), before)
    with pytest.raises(ModelError, match="has no tensor c"), tensors_replaced(model, {"c": torch.zeros(1)}):
        pass
