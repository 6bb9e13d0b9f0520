"""Values by layer: which entry of a mapping from names or globs to values a tensor or a group takes.

The most exact name wins: its own name, then that of a layer, then a glob, then "*", which stands for all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from secateur.core.errors import InputError
from secateur.core.modules import named_parameters
from secateur.sparsity.targets import found, matches


def entry_of(own: str, entries: Mapping[str, Any], meant: Iterable[str]) -> str | None:
    """Return the most exact of the entries `meant` for the tensor or group `own`; None if there is none.

    Raises `InputError` for two as exact ones of different values.
    """
    ranked = sorted(meant, key=lambda name: _inexact(name, own))
    best = [name for name in ranked if _inexact(name, own) == _inexact(ranked[0], own)]
    other = next((name for name in best if entries[name] != entries[best[0]]), None)
    if other is not None:
        raise InputError(
            f"{own} has two entries, '{best[0]}': {entries[best[0]]} and '{other}': {entries[other]}: "
            "leave one out, or give its own name an entry."
        )
    return best[0] if best else None


def by_tensor(model: nn.Module, tensors: Iterable[str], entries: Mapping[str, float]) -> dict[str, float]:
    """Return tensor name → value for the tensors that have an entry, in their order; tied ones have any of their names.

    Raises `InputError` for an entry that means none of the tensors, and for two as exact ones for one tensor.
    """
    aliases: dict[int, list[str]] = {}
    for name, parameter in named_parameters(model, remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    names = {each: both for both in aliases.values() for each in both}
    patterns = dict(zip(entries, found(entries, names), strict=True))
    values, used = dict[str, float](), set[str]()
    for tensor in tensors:
        own = names[tensor]
        meant = [key for key, pattern in patterns.items() if any(matches(each, pattern) for each in own)]
        used.update(meant)
        entry = entry_of(next((key for key in meant if key in own), tensor), entries, meant)
        if entry is not None:
            values[tensor] = entries[entry]
    for key in entries:
        if key not in used:
            raise InputError(
                f"The amount of '{key}' is for no tensor that may be cut: see include, keep and layers."
            )
    return values


def _inexact(entry: str, own: str) -> int:
    """How far an entry is from a tensor's or group's own name."""
    if entry == own:
        return 0
    return 3 if entry == "*" else 2 if any(sign in entry for sign in "*?[") else 1
