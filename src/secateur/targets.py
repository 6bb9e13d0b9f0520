"""Which parameters a cut may touch.

Every parameter plays one role: `weights` (matrices and kernels), `biases`, `norms` (scale and shift of
normalisation layers), `embeddings`, `others` (class tokens, position tables, layer scales). A prune names the
roles it includes and, by name or glob, the layers it is limited to or must keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from secateur.errors import InputError, ModelError

ROLES = ("weights", "biases", "norms", "embeddings", "others")


def role(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    """Return the role of `parameter`, called `name` in `module`."""
    if "norm" in type(module).__name__.lower():
        return "norms"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embeddings"
    if "bias" in name:
        return "biases"
    if "weight" in name and parameter.ndim >= 2:
        return "weights"
    return "others"


def prunable(
    model: nn.Module,
    include: Iterable[str] = ("weights",),
    keep: Sequence[str] = (),
    layers: Sequence[str] = (),
) -> dict[str, nn.Parameter]:
    """Return name → parameter for everything a cut may touch, in the model's order, tied parameters once.

    `include` lists roles (`ROLES`, or "all"); `keep` and `layers` are names or globs of parameters or modules:
    `keep` takes what it matches out, `layers`, when given, leaves only what it matches.

    Raises `InputError` for an unknown role or a pattern that matches nothing, `ModelError` for a model with
    nothing to prune or with NaN or infinite weights.
    """
    wanted = _roles(include)
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(prefix="", recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if parameter.is_floating_point() and role(module, leaf, parameter) in wanted:
                found[f"{prefix}.{leaf}" if prefix else leaf] = parameter
    everything = [name for name, _ in model.named_parameters()]
    for pattern in (*keep, *layers):
        if not any(matches(name, pattern) for name in everything):
            raise InputError(f"No layer matches '{pattern}': list the layers with secateur inspect.")
    chosen = {
        name: parameter
        for name, parameter in found.items()
        if not any(matches(name, pattern) for pattern in keep)
        and (not layers or any(matches(name, pattern) for pattern in layers))
    }
    if not chosen:
        raise ModelError("There is nothing to prune: no parameter is left after include, keep and layers.")
    check_finite(chosen)
    return chosen


def matches(parameter_name: str, pattern: str) -> bool:
    """Whether `pattern`, a name or glob, means this parameter or a module that holds it."""
    parts = parameter_name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes)


def check_finite(tensors: dict[str, nn.Parameter]) -> None:
    """Raise `ModelError` naming the first tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor.detach()).all()):
            raise ModelError(
                f"{name} holds NaN or infinite weights: train or load the model again before pruning."
            )


def _roles(include: Iterable[str]) -> set[str]:
    names = [include] if isinstance(include, str) else list(include)
    for name in names:
        if name not in (*ROLES, "all"):
            raise InputError(f"There is no role '{name}' to include: choose from {', '.join(ROLES)} or all.")
    return set(ROLES) if "all" in names else set(names)
