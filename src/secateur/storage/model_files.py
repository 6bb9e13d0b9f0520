"""Models and training states on disk: safetensors for tensors, JSON for everything else, never pickle.

One file holds a model: its state dict, its masks at one bit a weight, the plan that made it smaller, and in the
header a JSON description (what built the model, mask shapes, which tensors are tied). Training checkpoints use the
same container through `write_tree` / `read_tree`, which split any nest of dicts, lists, numbers and tensors into the
two halves. Files are written whole or not at all, and a corrupt, truncated or foreign one is refused with a sentence.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

from torch import Tensor, nn

from secateur.core.errors import InputError, ModelError, StoreError
from secateur.pruning.result import Pruned
from secateur.shrink.plan import Plan
from secateur.sparsity.masks import Masks
from secateur.storage.container import NONSENSE, dense, read_container, write_container
from secateur.storage.restore import check_cut, check_dense, fill

MASK, PLAN = "mask:", "plan:"
JSON_SCALARS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Stored:
    """What a model file holds.

    `about` is the JSON its writer put beside the tensors, `model` what builds the model: name, args, num_classes
    and input_shape; None where that isn't known. `plan` leads from that model to the smaller one `state` is of; None
    where it has its full size.
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

    Masks of a `Pruned` result are stored with it, one bit a weight; `about` is any JSON to keep beside them. With a
    model that was made smaller goes the plan of all its cuts, its attribute `secateur_plan`. A model built by
    `secateur.build` also stores its name and arguments, so that `load` can build it again.

    Raises `StoreError` where the file can't be written, `InputError` for masks of another model or what is no
    JSON, `ModelError` for state that is no dense tensor with values, or a layer replaced since the cut.
    """
    if isinstance(model, Pruned):
        masks = model.masks if masks is None else masks
        model = model.model
    packed = Masks(masks or {})
    packed.of(model)
    state = model.state_dict()
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
    """Read a model file without building anything. Raises `StoreError` for one that `save` did not write."""
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
    """Return the stored model: put `into` a fresh one of the same class, or built by the name it was saved with.

    A model that was made smaller is made smaller again: `into` is a fresh one of full size, which is cut in place as
    the file says, or one that was cut alike. A model built by name has the stored dtypes and is in training mode;
    `into` keeps its own dtypes, and is left as it was where anything goes wrong. `trust` allows a stored name of the
    form package.module:factory to be imported, which runs that package's code; without it such a file is refused
    unless `into` is given. Masked weights come back as the zeros they are; `load_masks` gives the masks themselves.
    Raises `StoreError` for a file that can't be read, `ModelError` for one that holds another model.
    """
    stored = read(path)
    if into is not None:
        fill(into, stored.state, stored.plan, str(path))
        return into
    model = build_stored(stored.model, path, trust=trust)
    fill(model, stored.state, stored.plan, str(path), dtypes=True)
    return model


def load_masks(path: str | os.PathLike[str]) -> Masks:
    """Return the masks stored beside a model; empty where it was saved without."""
    return read(path).masks


def build_stored(
    spec: Mapping[str, Any] | None, path: str | os.PathLike[str], *, trust: bool = False
) -> nn.Module:
    """Build the untrained model that `spec`, as stored in `path`, names."""
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
    return models.build(name, **args)


def write_tree(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> None:
    """Write a nest of dicts, lists, dense tensors, text and numbers (∞ and NaN too) to one safetensors file.

    A tensor is called by the keys that lead to it, joined by dots, or by a number where that is no name for it. Atomic.
    Raises `StoreError` where the file can't be written, `InputError` for anything else in the nest.
    """
    tensors: dict[str, Tensor] = {}
    try:
        skeleton = _split(tree, tensors)
    except RecursionError:
        raise InputError(f"Cannot write {path}: its content is nested too deeply, or in itself.") from None
    write_container(path, "tree", tensors, skeleton)


def read_tree(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_tree` wrote; tensors come back on the CPU, tuples as lists, int keys as ints."""
    tensors, skeleton = read_container(path, "tree")
    try:
        return dict(_join(skeleton, tensors))
    except NONSENSE as error:
        raise _no_fit(path, error) from None


def _no_fit(path: str | os.PathLike[str], error: Exception) -> StoreError:
    return StoreError(f"Cannot read {path}: its description does not fit its tensors ({error}).")


def _unpack(about: Any, tensors: dict[str, Tensor]) -> Plan:
    """Take the plan's tensors out of all that were stored."""
    names = [name for name in tensors if name.startswith(PLAN)]
    return Plan.unpack({name.removeprefix(PLAN): tensors.pop(name) for name in names}, about)


def _untie(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split a state dict into distinct tensors and alias → name for those that are the very same memory."""
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
    """Replace every tensor of a nest by {"tensor": name} and collect it under that name; `path` leads to the node."""
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
    """Return a tensor's name, or a number where it is taken or none that safetensors can have."""
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
