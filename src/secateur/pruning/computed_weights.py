"""Pruning of weights that modules compute from parameters: by masks of torch.nn.utils.prune, by parametrisations.

The cut is made in a ghost that holds the computed tensors as parameters, and is carried over to their sources in a copy
of the model, which keeps its hooks and parametrisations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.computed import (
    ComputedTensor,
    check_zeroable,
    computed_tensors,
    cut_entries,
    make_plain,
    plain_names,
    refresh,
    write_entries,
)
from secateur.core.copying import copy_with
from secateur.core.modules import named_buffers, named_parameters
from secateur.core.naming import bare
from secateur.measure.inputs import ModelInputs
from secateur.pruning.result import Pruned
from secateur.pruning.settings import Settings
from secateur.shrink.apply import copied
from secateur.sparsity.masks import Masks
from secateur.sparsity.targets import matches, names_in, prunable

PruneWeights = Callable[[nn.Module, ModelInputs | None, Settings, Masks], Pruned]


def prune_computed(
    model: nn.Module, example_inputs: ModelInputs | None, settings: Settings, prune: PruneWeights
) -> Pruned:
    """Cut weights of a model that computes some; entries that are zero by the computation go first.

    Raises `ModelError` for a computation that can't give zeros at single entries.
    """
    found, names = computed_tensors(model), plain_names(model)
    ghost = copy_with(model, _shared)
    make_plain(ghost)
    settings = _renamed(model, settings, names)
    targets = prunable(ghost, settings.include, settings.keep, settings.layers)
    for each in found:
        if each.name in targets:
            check_zeroable(each)
    dead = Masks({each.name: each.value() != 0 for each in found})
    result = prune(ghost, example_inputs, replace(settings, inplace=False), dead)
    pruned = model if settings.inplace else copied(model)
    compensated = settings.compensation != "drop" or settings.corrects
    _carry_over(pruned, result, compensated)
    carriers = {each.name: each.carrier for each in found if each.carrier}
    native = Masks({name: mask for name, mask in dead.items() if name in result.masks})
    masks = result.masks & native
    return replace(
        result,
        model=pruned,
        masks=_in_order(pruned, {carriers.get(name, name): mask for name, mask in masks.items()}),
    )


def _shared(tensor: Tensor) -> Tensor:
    """Return a tensor of the same memory; buffers, which may be written to, are copied."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
    return tensor.clone()


def _renamed(model: nn.Module, settings: Settings, names: Mapping[str, str]) -> Settings:
    """Return the settings with names of sources as names of what is computed from them."""
    masks = {
        names.get(name)
        or next((plain for plain in names.values() if plain and plain == bare(name)), name): mask
        for name, mask in (settings.masks or {}).items()
    }

    def in_ghost(given: Any) -> tuple[str, ...]:
        return tuple(name for pattern in names_in(model, given) for name in _patterns(model, pattern, names))

    amount: Any = settings.amount
    if isinstance(amount, Mapping):
        amount = {name: value for given, value in amount.items() for name in in_ghost(given)}
    keep, layers = in_ghost(settings.keep), in_ghost(settings.layers)
    return replace(settings, masks=masks or None, keep=keep, layers=layers, amount=amount)


def _patterns(model: nn.Module, pattern: str, names: Mapping[str, str]) -> Iterable[str]:
    """Yield a pattern if it matches a parameter that is no source, and the tensors whose sources it matches."""
    own = [name for name, _ in named_parameters(model, remove_duplicate=False)]
    matched = [name for name in own if matches(name, pattern)]
    if (
        not matched
        or any(name not in names for name in matched)
        or any(matches(n, pattern) for n in names.values())
    ):
        yield pattern
    yield from dict.fromkeys(names[name] for name in matched if names.get(name))


@torch.no_grad()
def _carry_over(pruned: nn.Module, result: Pruned, compensated: bool) -> None:
    """Give the sources of computed tensors, and all other parameters, the values of the cut ghost."""
    found = computed_tensors(pruned)
    values = dict(named_parameters(result.model))
    sources = {source for each in found for source in each.sources}
    for each in found:
        if each.name in result.masks:
            _give(each, values[each.name], result.masks[each.name], compensated)
    others = dict([*named_parameters(pruned), *named_buffers(pruned)])
    held = {**values, **dict(named_buffers(result.model))}
    for name, tensor in others.items():
        if name not in sources and name in held:
            tensor.copy_(held[name])
    refresh(pruned)


def _give(each: ComputedTensor, values: Tensor, mask: Tensor, compensated: bool) -> None:
    if compensated:
        write_entries(each, values, mask)
    else:
        cut_entries(each, mask)


def _in_order(model: nn.Module, masks: Mapping[str, Tensor]) -> Masks:
    """Return masks in the order of the model's parameters."""
    return Masks({name: masks[name] for name, _ in named_parameters(model) if name in masks})
