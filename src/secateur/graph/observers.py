"""Modules that watch values for quantisation, in copies of a model: at rest, and coupled with the values they watch.

A model that is prepared for quantisation holds observers, which note ranges of values and return them as they are, and
fake quantisers, which round by what an observer has noted. Neither may note anything while a model is traced or proved,
and the ranges of channels must be cut with the channels. Classes are told by name: those of torch, and those that
torchao has in their place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from secateur.core.modules import buffers_of, modules_of

WATCHING = ("ObserverBase", "FakeQuantizeBase")
"""Classes of observers and of fake quantisers."""


def rest(model: nn.Module) -> None:
    """Have the observers of a copy note nothing: values pass, rounded by what has been noted before."""
    for module in modules_of(model):
        observes, quantises = _kinds(module)
        if observes:
            module.__dict__["forward"] = _passed
        elif quantises:
            module.observer_enabled.zero_()  # type: ignore[operator]


def couple_ranges(model: nn.Module) -> None:
    """Have observers at rest meet the ranges that they hold of channels, and fake quantisers theirs.

    What is computed for it is used by nothing.
    """
    rest(model)
    for module in modules_of(model):
        if any(_kinds(module)):
            module.__dict__["forward"] = functools.partial(_with_ranges, module, module.forward)


def _kinds(module: nn.Module) -> tuple[bool, bool]:
    names = {each.__name__ for each in type(module).__mro__}
    observes, quantises = (name in names for name in WATCHING)
    return observes, quantises


def _passed(values: Tensor, *_: Any) -> Tensor:
    return values


def _with_ranges(module: Any, forward: Callable[..., Any], values: Tensor, *rest: Any) -> Any:
    """Multiply values by all ranges that are held of their channels, and return the forward of them as they are."""
    axis = getattr(module, "ch_axis", -1)
    if 0 <= axis < values.ndim:
        shape = [-1 if at == axis else 1 for at in range(values.ndim)]
        for held in buffers_of(module):
            if tuple(held.shape) == (values.shape[axis],) and len(held) > 1:
                values * held.view(shape)
    return forward(values, *rest)
