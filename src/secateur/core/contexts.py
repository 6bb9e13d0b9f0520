"""Context managers that change the state of a model or of torch, and restore it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.core.modules import buffers_of, modules_of, parameters_of, set_mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set every submodule to eval mode while the block runs, then restore each one's mode."""
    with _modes_kept(model):
        set_mode(model, False)
        yield


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Set every submodule to training mode while the block runs, then restore each one's mode.

    A module whose own parameters are all frozen is set to eval mode instead: a frozen normalisation keeps its
    statistics.
    """
    with _modes_kept(model):
        for module in modules_of(model):
            own = [each for each in module._parameters.values() if each is not None]
            module.training = not own or any(parameter.requires_grad for parameter in own)
        yield


@contextmanager
def own_code_training(model: nn.Module) -> Iterator[None]:
    """Set all modules but torch's own layers to training mode while the block runs, then restore each one's mode.

    So the code takes its training branches, such as auxiliary heads, with dropout and normalisations in eval mode.
    """
    with _modes_kept(model):
        for module in modules_of(model):
            module.training = not any(map(_is_layer, type(module).__mro__))
        yield


def _is_layer(kind: type) -> bool:
    plain = ("torch.nn.modules.module", "torch.nn.modules.container")
    return kind.__module__.startswith("torch.") and kind.__module__ not in plain


@contextmanager
def widened(model: nn.Module) -> Iterator[None]:
    """Hold the floating-point tensors of a model in float64, torch's default too, while the block runs; restore both.

    The tensors are the same objects, and have their former values again afterwards.
    """
    tensors = [each for each in (*model.parameters(), *model.buffers()) if each.is_floating_point()]
    own, default = [each.data for each in tensors], torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        for each in tensors:
            each.data = each.data.double()
        yield
    finally:
        torch.set_default_dtype(default)
        for each, data in zip(tensors, own, strict=True):
            each.data = data


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Store the weights in the memory layout [N, H, W, C] while the block runs; shapes and values are unchanged."""
    _laid_out(model, torch.channels_last)
    try:
        yield
    finally:
        _laid_out(model, torch.contiguous_format)


def _laid_out(model: nn.Module, layout: torch.memory_format) -> None:
    for tensor in (*parameters_of(model), *buffers_of(model)):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=layout)


@contextmanager
def unfused() -> Iterator[None]:
    """Run attention, recurrent layers and encoders as unfused operators while the block runs."""
    backends: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    enabled = [backend.enabled for backend in backends]
    try:
        for backend in backends:
            backend.enabled = False
        with no_fast_path(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for backend, was in zip(backends, enabled, strict=True):
            backend.enabled = was


@contextmanager
def no_fast_path() -> Iterator[None]:
    """Disable the fused fast path of transformer encoders while the block runs."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in modules_of(model)}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
