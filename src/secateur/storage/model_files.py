"""Models and training states on disk: safetensors for tensors, JSON for everything else, never pickle.

A model's file holds its state dict, its masks at one bit per weight, the plan of a smaller model, and in the header
a JSON description (name and arguments of the model, mask shapes, tied tensors). Training checkpoints use the same
container through `write_tree` / `read_tree`, which split nested dicts, lists, numbers and tensors into the two
parts. Files are written atomically, and a corrupt, truncated or foreign one is refused with a sentence.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

from torch import Tensor, nn

from secateur.core.errors import InputError, ModelError, StoreError
from secateur.core.modules import torch_method
from secateur.core.seeds import same_draws
from secateur.core.wrapped import unwrapped
from secateur.pruning.result import Pruned
from secateur.shrink.plan import Plan
from secateur.sparsity.masks import Masks
from secateur.storage.container import NONSENSE, dense, read_container, write_container
from secateur.storage.restore import check_cut, check_dense, fill

MASK, PLAN = "mask:", "plan:"
JSON_SCALARS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Stored:
    """Content of a model file.

    `about` is the writer's JSON, `model` the specification of the full-size model: name, args, num_classes and
    input_shape; None if unknown. `plan` cuts that model to the smaller one of `state`; None for one of full size.
    Tensors are on the CPU.
    """

    state: dict[str, Tensor]
    masks: Masks
    about: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] | None = None
    plan: Plan | None = None


def save(
    model: nn.Module | Pruned,
    path: str | os.PathLike[str],
    *,
    masks: Mapping[str, Tensor] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a model, or the result of `prune`, to one safetensors file, atomically.

    Masks (default: those of a `Pruned` result) are stored at one bit per weight; `about` is a JSON mapping stored with
    them. A smaller model is stored with the plan of all its cuts, its attribute `secateur_plan`. A model built by
    `secateur.build` is stored with its name and arguments, from which `load` can build it again. Of a wrapped or
    compiled model, the module inside is stored.

    Raises `StoreError` if the file can't be written, `InputError` for masks of another model or an `about` that is no
    JSON, `ModelError` for state that is no dense tensor with values, or a layer replaced since the cut.
    """
    if isinstance(model, Pruned):
        masks = model.masks if masks is None else masks
        model = model.model
    model = unwrapped(model)
    packed = Masks(masks or {}).named_as_in(model)
    state = torch_method(model, "state_dict")
    check_dense(state, model)
    tensors, tied = _untie(state)
    header = {
        "about": dict(about or {}),
        "model": getattr(model, "secateur_spec", None),
        "masks": {name: list(mask.shape) for name, mask in packed.items()},
        "tied": tied,
    }
    tensors.update({MASK + name: bits for name, bits in packed.pack().items()})
    plan: Plan | None = getattr(model, "secateur_plan", None)
    if plan is not None:
        try:
            check_cut(plan, state)
        except InputError as error:
            raise ModelError(f"{type(model).__name__} can't be stored: {error}") from None
        indices, header["plan"] = plan.pack()
        tensors.update({PLAN + name: rows for name, rows in indices.items()})
    write_container(path, "model", tensors, header)


def read(path: str | os.PathLike[str]) -> Stored:
    """Read a model file without building the model. Raises `StoreError` for a file that `save` did not write."""
    tensors, header = read_container(path, "model")
    try:
        packed = {name: tensors.pop(MASK + name) for name in header["masks"]}
        masks = Masks.unpack(packed, header["masks"])
        plan = _unpack(header["plan"], tensors) if "plan" in header else None
        tensors.update({alias: tensors[name] for alias, name in header["tied"].items()})
        for name, mask in masks.items():
            if tensors[name].shape != mask.shape:
                raise InputError(f"The mask of {name} has another shape than its weights.")
        if plan is not None:
            check_cut(plan, tensors)
        return Stored(tensors, masks, dict(header["about"]), header["model"], plan)
    except NONSENSE as error:
        raise _no_fit(path, error) from None


def load(path: str | os.PathLike[str], into: nn.Module | None = None, *, trust: bool = False) -> nn.Module:
    """Return the stored model, loaded `into` a new one of the same class, or built by its stored name.

    A smaller model is cut again: `into` is a new one of full size, cut in place by the stored plan, or one with the
    same cut. A model built by name has the stored dtypes and is in training mode; `into` keeps its own dtypes, and is
    unchanged after an error. `trust` (default False) allows a stored name package.module:factory to be imported, which
    runs that code; without it such a file is refused unless `into` is given. Masked weights are zeros; `load_masks`
    returns the masks. Raises `StoreError` for an unreadable file, `ModelError` for one of another model, `InputError`
    for one without a name, or with a name that is not trusted.
    """
    stored = read(path)
    if into is not None:
        fill(unwrapped(into), stored.state, stored.plan, str(path))
        return into
    model = build_stored(stored.model, path, trust=trust)
    fill(model, stored.state, stored.plan, str(path), dtypes=True)
    return model


def load_masks(path: str | os.PathLike[str]) -> Masks:
    """Return the masks stored with a model, empty without any. Raises `StoreError` for an unreadable file."""
    return read(path).masks


def build_stored(
    spec: Mapping[str, Any] | None, path: str | os.PathLike[str], *, trust: bool = False, seed: int = 0
) -> nn.Module:
    """Build the untrained full-size model of `spec`, as stored in `path`; its weights are drawn under `seed`.

    Raises `InputError` without a `spec` or for user code that is not trusted, `StoreError` for an invalid one, and
    the errors of `models.build`.
    """
    from secateur import models

    if not spec:
        raise InputError(f"{path} does not say how to build its model: pass a fresh one with into=.")
    try:
        name, shape = str(spec["name"]), spec.get("input_shape")
        args = models.without_pretraining(name, dict(spec.get("args") or {}))
        args |= {"num_classes": spec.get("num_classes"), "input_shape": tuple(shape) if shape else None}
        if "name" in args:
            raise ValueError("an argument called name")
    except NONSENSE as error:
        raise StoreError(
            f"{path} does not say rightly how to build its model ({error}): pass a fresh one with into=."
        ) from None
    if models.is_user_code(name) and not trust:
        raise InputError(
            f"{path} names the code {name} to build its model: allow it with trust=True (--trust), "
            "or pass a fresh model with into=."
        )
    with same_draws(seed):
        return models.build(name, **args)


def write_tree(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> None:
    """Write nested dicts, lists, dense tensors, text and numbers (∞ and NaN too) to one safetensors file, atomically.

    A tensor is named by its keys, joined by dots, or by a number if that name is taken or invalid. Raises `StoreError`
    if the file can't be written, `InputError` for a value of another type.
    """
    tensors: dict[str, Tensor] = {}
    try:
        skeleton = _split(tree, tensors)
    except RecursionError:
        raise InputError(f"Cannot write {path}: its content is nested too deeply, or in itself.") from None
    write_container(path, "tree", tensors, skeleton)


def read_tree(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a tree of `write_tree`: tensors are on the CPU, tuples become lists, int keys stay ints.

    Raises `StoreError` for any other file.
    """
    tensors, skeleton = read_container(path, "tree")
    try:
        return dict(_join(skeleton, tensors))
    except NONSENSE as error:
        raise _no_fit(path, error) from None


def _no_fit(path: str | os.PathLike[str], error: Exception) -> StoreError:
    return StoreError(f"Cannot read {path}: its description does not fit its tensors ({error}).")


def _unpack(about: Any, tensors: dict[str, Tensor]) -> Plan:
    """Return the plan, its tensors removed from the stored `tensors`."""
    names = [name for name in tensors if name.startswith(PLAN)]
    return Plan.unpack({name.removeprefix(PLAN): tensors.pop(name) for name in names}, about)


def _untie(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split a state dict into distinct tensors and alias → name of tensors that share their memory."""
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        key = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if key in first:
            tied[name] = first[key]
        else:
            first[key] = name
            kept[name] = tensor
    return kept, tied


def _split(node: Any, tensors: dict[str, Tensor], path: tuple[Any, ...] = ()) -> Any:
    """Replace every tensor below `node` by {"tensor": name}, and collect it under that name; `path` is the node's."""
    if dense(node):
        name = _free(".".join(map(str, path)), tensors)
        tensors[name] = node
        return {"tensor": name}
    if isinstance(node, Mapping) and all(isinstance(key, JSON_SCALARS) for key in node):
        return {"dict": [[key, _split(value, tensors, (*path, key))] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return {"list": [_split(value, tensors, (*path, index)) for index, value in enumerate(node)]}
    if isinstance(node, JSON_SCALARS):
        return {"value": node}
    raise InputError(
        f"Cannot store a {type(node).__name__}: only numbers, text, lists, dicts and dense tensors are kept."
    )


def _free(name: str, taken: Container[str]) -> str:
    """Return a tensor's name, or a number if the name is taken or invalid in safetensors."""
    fit = [name] if name.isprintable() and name not in ("", "__metadata__") else []
    return next(each for each in chain(fit, map(str, count())) if each not in taken)


def _join(node: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    (kind, value), *_ = node.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _join(child, tensors) for key, child in value}
    if kind == "list":
        return [_join(child, tensors) for child in value]
    return value
