"""The sizes that modules repeat beside their tensors, put right after a cut.

What a plan says goes first. Then the standard modules of torch whose tensors were cut get the sizes their tensors
now have: `out_channels`, `in_features`, `normalized_shape`, … `description` is the table of these; other classes
join it with `description.register`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from functools import singledispatch
from typing import Any

from torch import nn

from secateur.core.errors import ModelError
from secateur.core.modules import named_buffers, named_parameters, submodule
from secateur.shrink.plan import named_tensors


def set_attributes(model: nn.Module, attributes: Mapping[str, int]) -> None:
    """Give attributes of modules, named as in a plan, their new values.

    An object that several modules hold, such as a configuration, is changed where all values for it agree; where they
    differ, each module named gets a copy of its own. Raises `ModelError`, with nothing changed, where an attribute
    isn't there, is no integer, or is given two values.
    """
    groups: dict[tuple[int, str], list[tuple[nn.Module, list[str], int]]] = {}
    for key, value in attributes.items():
        path, _, steps = key.partition(":")
        module, chain = submodule(model, path), steps.split(".")
        owner, name = _owner(module, chain, key)
        group = groups.setdefault((id(owner), name), [])
        group.append((module, chain, value))
        if isinstance(owner, nn.Module) and _differ(group):
            raise ModelError(f"The plan gives {key} two values: one module goes by several names there.")
    for group in sorted(groups.values(), key=_differ):  # what is shared first: the copies are to have it too
        for module, chain, value in group:
            _put(module, chain, value, private=_differ(group))


def _differ(group: list[tuple[nn.Module, list[str], int]]) -> bool:
    return len({value for _, _, value in group}) > 1


def _owner(module: nn.Module, chain: list[str], key: str) -> tuple[Any, str]:
    """Return the object whose attribute holds the integer, and the way on from there."""
    owner: Any = module
    name, here = "", owner
    try:
        for at, step in enumerate(chain):
            if not isinstance(here, Sequence):
                owner, name = here, ".".join(chain[at:])
            here = _step(here, step)
    except (AttributeError, IndexError, ValueError):
        raise ModelError(f"The plan sets {key}, which this model does not have.") from None
    if not isinstance(here, int):
        raise ModelError(f"The plan sets {key}, which holds no size but {type(here).__name__}.")
    return owner, name


def _step(here: Any, step: str) -> Any:
    return here[int(step)] if isinstance(here, Sequence) else getattr(here, step)


def _put(here: Any, chain: list[str], value: int, private: bool) -> Any:
    """Return `here` with `value` at the end of the chain: a new sequence, else the object itself, changed."""
    if not chain:
        return value
    child = _step(here, chain[0])
    if private and len(chain) > 1 and not isinstance(child, Sequence):
        child = copy.copy(child)
    child = _put(child, chain[1:], value, private)
    if isinstance(here, Sequence):
        items = list(here)
        items[int(chain[0])] = child
        return items if isinstance(here, list) else tuple(items)
    setattr(here, chain[0], child)
    return here


def describe(model: nn.Module, names: Collection[str], attributes: Collection[str]) -> None:
    """Set the sizes that standard modules repeat, in the modules that own one of the tensors `names`.

    What `attributes`, named as in a plan, already sets is left as it is.
    """
    given = set()
    for key in attributes:
        path, _, chain = key.partition(":")
        given.add((submodule(model, path), chain.partition(".")[0]))
    for module in _around(model, names):
        for attribute, value in description(module).items():
            if (module, attribute) not in given:
                setattr(module, attribute, value)


def _around(model: nn.Module, names: Collection[str]) -> list[nn.Module]:
    """Return the modules that hold one of the tensors, under any of its names, and the modules around them."""
    tensors = named_tensors(model)
    wanted = {id(tensors[name]) for name in names}
    paths: set[str] = set()
    for named in (
        named_parameters(model, remove_duplicate=False),
        named_buffers(model, remove_duplicate=False),
    ):
        for name, tensor in named:
            if id(tensor) in wanted:
                steps = name.split(".")
                paths.update(".".join(steps[:end]) for end in range(len(steps)))
    return [submodule(model, path) for path in paths]


@singledispatch
def description(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that repeat sizes of its tensors, with the values these sizes have now.

    The attributes still hold the sizes of before, except those a plan has set.
    """
    return {}


@description.register(nn.Linear)
def _linear(module: Any) -> dict[str, Any]:
    return dict(zip(("out_features", "in_features"), module.weight.shape, strict=True))


@description.register(nn.Bilinear)
def _bilinear(module: Any) -> dict[str, Any]:
    return dict(zip(("out_features", "in1_features", "in2_features"), module.weight.shape, strict=True))


@description.register(nn.Embedding)
@description.register(nn.EmbeddingBag)
def _embedding(module: Any) -> dict[str, Any]:
    return dict(zip(("num_embeddings", "embedding_dim"), module.weight.shape, strict=True))


@description.register(nn.Conv1d)
@description.register(nn.Conv2d)
@description.register(nn.Conv3d)
def _convolution(module: Any) -> dict[str, Any]:
    outputs, inputs = module.weight.shape[:2]
    groups = outputs if _depthwise(module) else module.groups
    return {"groups": groups, "in_channels": inputs * groups, "out_channels": outputs}


@description.register(nn.ConvTranspose1d)
@description.register(nn.ConvTranspose2d)
@description.register(nn.ConvTranspose3d)
def _transposed_convolution(module: Any) -> dict[str, Any]:
    inputs, outputs = module.weight.shape[:2]
    groups = inputs if _depthwise(module) else module.groups
    return {"groups": groups, "in_channels": inputs, "out_channels": outputs * groups}


def _depthwise(module: Any) -> bool:
    """Whether each channel was convolved by itself. Other groups can't be told from the weights: a plan sets them."""
    return bool(module.groups == module.in_channels == module.out_channels)


@description.register(nn.BatchNorm1d)
@description.register(nn.BatchNorm2d)
@description.register(nn.BatchNorm3d)
@description.register(nn.SyncBatchNorm)
@description.register(nn.InstanceNorm1d)
@description.register(nn.InstanceNorm2d)
@description.register(nn.InstanceNorm3d)
def _channel_norm(module: Any) -> dict[str, Any]:
    tensor = module.running_mean if module.weight is None else module.weight
    return {} if tensor is None else {"num_features": len(tensor)}


@description.register(nn.GroupNorm)
def _group_norm(module: Any) -> dict[str, Any]:
    return {} if module.weight is None else {"num_channels": len(module.weight)}


@description.register(nn.LayerNorm)
@description.register(nn.RMSNorm)
def _layer_norm(module: Any) -> dict[str, Any]:
    return {} if module.weight is None else {"normalized_shape": tuple(module.weight.shape)}


@description.register(nn.PReLU)
def _prelu(module: Any) -> dict[str, Any]:
    return {"num_parameters": len(module.weight)}


@description.register(nn.RNNCellBase)
def _recurrent_cell(module: Any) -> dict[str, Any]:
    return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}


@description.register(nn.RNNBase)
def _recurrent(module: Any) -> dict[str, Any]:
    sizes = {"input_size": module.weight_ih_l0.shape[1], "hidden_size": module.weight_hh_l0.shape[1]}
    if not module.proj_size:
        return sizes
    projected, hidden = module.weight_hr_l0.shape
    return {**sizes, "hidden_size": hidden, "proj_size": projected}


@description.register(nn.MultiheadAttention)
def _attention(module: Any) -> dict[str, Any]:
    packed = module.in_proj_weight
    if packed is None:
        query, key, value = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
        width, sizes = query.shape[0], (query.shape[1], key.shape[1], value.shape[1])
    else:
        width, sizes = (packed.shape[0] - module.out_proj.weight.shape[1]) // 2, (packed.shape[1],) * 3
    return {
        **dict(zip(("embed_dim", "kdim", "vdim"), sizes, strict=True)),
        "head_dim": width // module.num_heads,
    }
