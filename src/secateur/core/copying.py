"""Copies of a model, with tensors of their own or with others in their place.

A ghost has the model's modules, attributes and hooks, but other tensors in place of its own. Tracing may tag its
attributes and run it without the user's model ever noticing.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from secateur.core.errors import ModelError, reason_of
from secateur.core.held import HeldTensors, tensors_in
from secateur.core.modules import buffers_of, modules_of, parameters_of, set_mode
from secateur.core.rebinding import Rebinding
from secateur.core.uncopied import from_parts, uncopied


def copy_with(
    model: nn.Module,
    substitute: Callable[[Tensor], Tensor],
    held: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    *,
    share: bool = True,
) -> nn.Module:
    """Return a copy of `model` in which `substitute(tensor)` stands for each parameter and buffer.

    A tensor used in several places is substituted once, so ties stay. `held(tensor)` stands for those a module
    holds unregistered, in attributes and the objects in them, which by default are shared.
    With `share`, the copy shares with the model what can't be copied, such as a lock or an open file.
    Raises `ModelError` for a model that can't be copied, with the attribute at fault.
    """
    memo: dict[int, Any] = {id(t): substitute(t) for t in (*parameters_of(model), *buffers_of(model))}
    for module in modules_of(model):
        for value in vars(module).values():
            if type(value) in (dict, OrderedDict) and not value:
                memo[id(value)] = type(value)()  # a module has a dozen of them
            for tensor in tensors_in(value):
                if id(tensor) not in memo:
                    memo[id(tensor)] = held(tensor)
    with HeldTensors(held):
        copied = _copied(model, memo, share)
    forget_caches(copied)
    _own_classes(copied)
    return copied


def duplicate(model: nn.Module, *, share: bool = False) -> nn.Module:
    """Return a copy of `model` with tensors of its own, as `copy.deepcopy` does where that can.

    Tensors of an earlier pass are copied without its graph; functions held by modules speak of the copy. `share` and
    errors as for `copy_with`.
    """
    memo: dict[int, Any] = {}
    try:
        copied = copy.deepcopy(model, memo)
    except Exception:  # told by `copy_with`, if it can't either
        return copy_with(model, _duplicated, lambda tensor: tensor.detach().clone(), share=share)
    Rebinding(model, memo)
    _own_classes(copied)
    return copied


def _own_classes(model: nn.Module) -> None:
    """Give parametrised modules a class of their own, as torch takes properties from it when these are removed."""
    for module in modules_of(model):
        if is_parametrized(module):
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))


def _copied(model: nn.Module, memo: dict[int, Any], share: bool) -> nn.Module:
    """Copy a model by `copy.deepcopy`, then without what fails, then without its classes' own way to be copied."""
    for copying in (copy.deepcopy, copy.deepcopy, from_parts):
        latest = dict(memo)
        try:
            copied = copying(model, latest)
        except Exception as error:
            failure, stuck = error, uncopied(model, memo)
            refusing = [each for each in stuck if not isinstance(each.value, ModuleType)]
            if refusing and not share:
                why = f"{type(model).__name__} can't be copied ({refusing[0]})"
                raise ModelError(f"{why}: prune it itself, with inplace=True.") from error
            memo |= {id(each.value): each.value for each in stuck if not isinstance(each.value, nn.Module)}
        else:
            Rebinding(model, latest)
            return copied
    raise ModelError(f"{type(model).__name__} can't be copied ({reason_of(failure)}).") from failure


def copied_tensor(tensor: Tensor, values: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a parameter or buffer with other values, and with its class, its own attributes and its gradient."""
    new = values(tensor.detach())
    if isinstance(tensor, nn.Parameter):
        new = torch.Tensor._make_subclass(type(tensor), new, tensor.requires_grad)
    new.__dict__.update(tensor.__dict__)
    if tensor.is_leaf and tensor.grad is not None:
        new.grad = values(tensor.grad)
    return new


def _duplicated(tensor: Tensor) -> Tensor:
    return copied_tensor(tensor, torch.clone)


def forget_caches(model: nn.Module) -> None:
    """Have modules that keep computed tensors for later passes drop them, as they do when training begins."""
    for module in modules_of(model):
        held = (value for value in vars(module).values() if type(value) is dict)
        if any(isinstance(tensor, Tensor) for value in held for tensor in value.values()):
            modes = [(each, each.training) for each in modules_of(module)]
            set_mode(module, True)
            for each, mode in modes:
                each.training = mode
