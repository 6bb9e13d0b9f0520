"""Prunable parameters.

Every parameter has one role: `weights` (matrices and kernels), `biases`, `norms` (scale and shift of normalisation
layers), `embeddings`, `outputs` (matrices of a language model outside its stack of layers), `others` (class tokens,
position tables, layer scales). A cut includes roles, and is limited to layers or keeps layers, by name or glob.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.core.computed import uses
from secateur.core.errors import InputError, ModelError
from secateur.core.modules import modules_of, named_modules, named_parameters
from secateur.sparsity.language import outputs

ROLES = ("weights", "biases", "norms", "embeddings", "outputs", "others")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LayerNames = str | nn.Module | Tensor | Iterable[str | nn.Module | Tensor] | None
"""Layers as a caller names them: names or globs, or modules and parameters of the model themselves."""


def role(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    """Return the role of `parameter`, called `name` in `module`."""
    vector = sum(size > 1 for size in parameter.shape) < 2
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) or (vector and "norm" in type(module).__name__.lower()):
        return "norms"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embeddings"
    words = name.split("_")  # bias, in_proj_bias, bias_hh_l0; but not relative_position_bias_table
    if "bias" in (words[0], words[-1]):
        return "biases"
    if "weight" in name and parameter.ndim >= 2:
        return "weights"
    return "others"


def prunable(
    model: nn.Module,
    include: str | Iterable[str] = ("weights",),
    keep: LayerNames = (),
    layers: LayerNames = (),
) -> dict[str, nn.Parameter]:
    """Return name → parameter for all prunable parameters, in the model's order, tied parameters once.

    `include` lists roles (`ROLES`, or "all"); `keep` and `layers` are names or globs of parameters or modules, or these
    themselves: matches of `keep` are excluded, and `layers`, when given, excludes all others. A tied parameter has the
    role of its first name and is matched by any of them. Parameters of other dtypes than `DTYPES` are never cut. The
    output layer of a language model is cut if its role is included or `layers` names it; "*" does not. Of those that a
    module computes a weight from (masks of torch.nn.utils.prune, parametrisations), the one of the weight's shape has
    its role.

    Raises `InputError` for an unknown role or a pattern without a match, `ModelError` for a model with nothing to
    prune, or with weights that are NaN, infinite or uninitialised.
    """
    require_module(model)
    wanted, keep, layers = roles(include), names_in(model, keep), names_in(model, layers)
    aliases: dict[int, list[str]] = {}
    for name, parameter in named_parameters(model, remove_duplicate=False):
        if is_lazy(parameter) or parameter.is_meta:
            raise ModelError(f"{name} has no values yet: load weights, or run a lazy module once.")
        aliases.setdefault(id(parameter), []).append(name)
    every = [name for names in aliases.values() for name in names]
    keep, layers = found(keep, every), found(layers, every)
    apart = outputs(model)
    chosen: dict[str, nn.Parameter] = {}
    used = uses(model)
    for owner in modules_of(model):
        for own, parameter in named_parameters(owner, recurse=False):
            module, leaf = used.get(id(parameter), (owner, own))
            names, part = aliases.pop(id(parameter), None), role(module, leaf, parameter)
            if names is None or parameter.dtype not in DTYPES or part not in wanted | {"weights"}:
                continue
            kept = any(matches(name, pattern) for name in names for pattern in keep)
            meant = [each for each in layers if any(matches(name, each) for name in names)]
            if part == "weights" and id(parameter) in apart:
                included = "outputs" in wanted or ("weights" in wanted and any(each != "*" for each in meant))
            else:
                included = part in wanted
            if included and (meant or not layers) and not kept:
                chosen[names[0]] = parameter
    if not any(parameter.numel() for parameter in chosen.values()):
        raise ModelError("There is nothing to prune: no parameter is left after include, keep and layers.")
    check_finite(chosen)
    return chosen


def left_alone(
    model: nn.Module, include: str | Iterable[str] = ("weights",), keep: LayerNames = ()
) -> dict[str, str]:
    """Return tensor name → reason for the matrices of a language model that `prunable` leaves out by default."""
    wanted = roles(include)
    if "outputs" in wanted or "weights" not in wanted:
        return {}
    try:
        apart = prunable(model, "outputs", keep)
    except ModelError:
        return {}
    return dict.fromkeys(apart, "it is outside a language model's layers; include outputs, or name it")


def require_module(model: object) -> None:
    """Raise `InputError` unless `model` is an `nn.Module`."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise InputError(f"A model is a torch.nn.Module, not {what}: pass the model itself.")


def as_names(names: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return names as a tuple; a single text becomes one name, None an empty tuple."""
    if names is not None and not isinstance(names, str | Iterable):
        raise InputError(f"{names!r} is no name of a layer: give a name, a glob, or a list of them.")
    return (names,) if isinstance(names, str) else tuple(names or ())


def names_in(model: nn.Module, layers: LayerNames) -> tuple[str, ...]:
    """Return the names of layers of `model`, modules and parameters themselves among them.

    Raises `InputError` for the model as a whole, for a module or tensor that is none of its own, and for anything that
    is no name.
    """
    if layers is None:
        return ()
    if isinstance(layers, str | nn.Module | Tensor) or not isinstance(layers, Iterable):
        layers = (layers,)
    return tuple(name for each in layers for name in _names_of(model, each))


def _names_of(model: nn.Module, layer: object) -> Iterator[str]:
    """Yield the name of a layer; those of its children for a slice of a container, such as model.features[:5]."""
    if isinstance(layer, str):
        yield layer
        return
    if not isinstance(layer, nn.Module | Tensor):
        raise InputError(
            f"{layer!r} is no name of a layer: give a name, a glob, a module, or a list of them."
        )
    require_module(model)
    if layer is model:
        raise InputError(
            "The model itself is no layer of it: name a part of it, such as one of its children."
        )
    name = _own_name(model, layer)
    if name is not None:
        yield name
    elif isinstance(layer, nn.Sequential | nn.ModuleList) and len(layer):
        for child in layer:
            yield from _names_of(model, child)
    else:
        kind = type(layer).__name__
        raise InputError(
            f"This {kind} is no part of the model: give its own modules or parameters, or names."
        )


def _own_name(model: nn.Module, layer: nn.Module | Tensor) -> str | None:
    """Return the name of a module or parameter of the model, None for any other."""
    found: Iterable[tuple[str, object]] = (
        named_modules(model) if isinstance(layer, nn.Module) else named_parameters(model)
    )
    return next((name for name, own in found if own is layer), None)


def found(patterns: Iterable[str], names: Iterable[str], others: Iterable[str] = ()) -> tuple[str, ...]:
    """Return `patterns` as names or globs that match one of the parameters `names` at least.

    A word that names nothing from the top of the model means the modules of this name anywhere: "mlp" becomes "*.mlp".
    Raises `InputError` for one without a match, with the nearest names, among them `others` that may be given.

    >>> found(["stem", "mlp"], ["stem.weight", "blocks.0.mlp.weight"])
    ('stem', '*.mlp')
    """
    names = tuple(names)
    return tuple(_found(pattern, names, tuple(others)) for pattern in patterns)


def _found(pattern: str, names: tuple[str, ...], others: tuple[str, ...]) -> str:
    if any(matches(name, pattern) for name in names):
        return pattern
    if pattern.isidentifier() and any(matches(name, f"*.{pattern}") for name in names):
        return f"*.{pattern}"
    parts = (name.split(".") for name in names)
    known = [
        *others,
        *dict.fromkeys(".".join(each[:end]) for each in parts for end in range(1, len(each) + 1)),
    ]
    near = get_close_matches(pattern, known, n=3, cutoff=0.7)
    hint = f"did you mean {' or '.join(near)}?" if near else "list the layers with secateur inspect."
    raise InputError(f"No layer with parameters matches '{pattern}': {hint}")


def matches(parameter_name: str, pattern: str) -> bool:
    """Whether `pattern`, a name or glob, matches this parameter or a module that contains it."""
    parts = parameter_name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes)


def check_finite(tensors: dict[str, nn.Parameter]) -> None:
    """Raise `ModelError` naming the first tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if not _finite(tensor.detach()):
            raise ModelError(f"{name} holds NaN or infinite weights: train or load the model again.")


def _finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0:
        return True
    # both ends of the range in one pass and no memory; NaN is both
    ends = torch.aminmax(torch.view_as_real(tensor) if tensor.is_complex() else tensor)
    return bool(torch.isfinite(torch.stack(ends)).all())


def roles(include: str | Iterable[str]) -> set[str]:
    """Return the set of roles in `include`, all for "all". Raises `InputError` for an unknown role."""
    names = as_names(include)
    for name in names:
        if name not in (*ROLES, "all"):
            raise InputError(f"There is no role '{name}' to include: choose from {', '.join(ROLES)} or all.")
    return set(ROLES) if "all" in names else set(names)
