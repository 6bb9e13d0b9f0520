"""Restoring a model from its stored plan and values.

Both are checked before the model changes: a cut is tried first on a copy of the model on the meta device, so that an
invalid plan, or one of another model, leaves the model unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.casts import check_casts
from secateur.core.copying import copy_with
from secateur.core.errors import InputError, ModelError
from secateur.core.modules import named_modules, torch_method
from secateur.shrink.apply import apply
from secateur.shrink.plan import Plan, named_tensors
from secateur.sparsity.targets import require_module
from secateur.storage.container import dense


def fill(
    model: nn.Module, state: Mapping[str, Tensor], plan: Plan | None, source: str, *, dtypes: bool = False
) -> None:
    """Cut `model` in place by `plan`, then copy `state` into it; `source` is their name in errors.

    A model that has the plan's small shapes already only gets the values. It keeps its own dtypes unless `dtypes`
    gives it those of `state`. Raises `ModelError` for another model than the stored one, which is then unchanged.
    """
    require_module(model)
    check_dense(torch_method(model, "state_dict"), model)
    if plan is not None and not _cut_already(model, plan, source):
        ghost = copy_with(model, _without_values)
        with _as_model_errors(source, model), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of copies to the meta device
            _check_attributes(ghost, plan)
            apply(ghost, plan, inplace=True)
            _put(state, ghost, source)
        apply(model, plan, inplace=True)
    _put(state, model, source, dtypes)


def check_dense(state: Mapping[str, Any], model: nn.Module) -> None:
    """Raise `ModelError` if a model's state holds anything but dense tensors with values."""
    for name, value in state.items():
        if not dense(value):
            raise ModelError(
                f"{name} of {type(model).__name__} is no dense tensor with values: it can't be stored or loaded."
            )


def check_cut(plan: Plan, state: Mapping[str, Tensor]) -> None:
    """Raise `InputError` unless the tensors in `state` have the shapes that `plan` leaves."""
    for name in plan.kept.keys() & state.keys():
        found, left = list(state[name].shape), list(plan.shape_after(name))
        if found != left:
            raise InputError(
                f"{name} is {found}, where the model's cut left {left}: change layers before a cut."
            )


def _put(state: Mapping[str, Tensor], model: nn.Module, source: str, dtypes: bool = False) -> None:
    """Copy `state` into `model`. Raises `ModelError`, with the model unchanged, unless it has exactly these tensors."""
    own = torch_method(model, "state_dict", keep_vars=True)
    missing, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = sorted(name for name in own.keys() & state.keys() if _kind(own[name]) != _kind(state[name]))
    for kind, names in (("lacks", missing), ("has the foreign", foreign), ("has another kind of", wrong)):
        if names:
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise ModelError(
                f"{source} {kind} {shown}: it is a checkpoint of another model than {type(model).__name__}."
            )
    if not dtypes:
        check_casts(state, own, source)
    if dtypes:
        for name, tensor in own.items():
            tensor.data = tensor.data.to(state[name].dtype)
    try:
        torch_method(model, "load_state_dict", dict(state))
    except RuntimeError as error:
        raise ModelError(
            f"{type(model).__name__} does not take {source} ({str(error).splitlines()[-1].strip()})."
        ) from error


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    """Return the shape and the kind of numbers (integer, real or complex), which must agree for a copy."""
    return tuple(tensor.shape), tensor.is_floating_point(), tensor.is_complex()


def _cut_already(model: nn.Module, plan: Plan, source: str) -> bool:
    """Whether `model` has the shapes after `plan`. Raises `ModelError` if it has them from another cut."""
    tensors = named_tensors(model)
    left = {name: plan.shape_after(name) for name in plan.kept}
    if left == dict(plan.shapes) or any(
        name not in tensors or tuple(tensors[name].shape) != shape for name, shape in left.items()
    ):
        return False
    own = getattr(model, "secateur_plan", None)
    if own is not None and not _equal(own, plan):
        raise ModelError(
            f"{source} holds a cut that removed other units than this {type(model).__name__} has lost: "
            "load it into a fresh model of full size."
        )
    return True


def _equal(one: Plan, other: Plan) -> bool:
    (tensors, about), (others, abouts) = one.pack(), other.pack()
    same = tensors.keys() == others.keys() and about == abouts
    return same and all(torch.equal(tensors[key], others[key]) for key in tensors)


def _without_values(tensor: Tensor) -> Tensor:
    """Return a meta tensor of the same shape, strides and dtype; a parameter for a parameter."""
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def _check_attributes(model: nn.Module, plan: Plan) -> None:
    """Raise `InputError` if an attribute of the plan is private or reached through a callable: only sizes are set."""
    for key in plan.attributes:
        path, _, steps = key.partition(":")
        here: Any = dict(named_modules(model, remove_duplicate=False)).get(path)
        for step in steps.split("."):
            private = step.startswith("_") and not _holds_sizes(here, step)
            if private or (callable(here) and not isinstance(here, nn.Module)):
                raise InputError(f"it sets {key}, which is no size")
            here = None if isinstance(here, Sequence) else getattr(here, step, None)


def _holds_sizes(module: Any, name: str) -> bool:
    """Whether a private attribute of a module is an integer, or some."""
    held = vars(module).get(name) if isinstance(module, nn.Module) and not name.startswith("__") else None
    items = held if isinstance(held, list | tuple) and held else [held]
    return all(type(item) is int for item in items)


@contextmanager
def _as_model_errors(source: str, model: nn.Module) -> Iterator[None]:
    """Turn every exception of a plan that does not fit the model into a `ModelError`."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelError(
            f"{type(model).__name__} can't be cut as {source} says ({reason}): it holds another model."
        ) from error
