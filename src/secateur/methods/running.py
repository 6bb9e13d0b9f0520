"""Conflicts of a method with those already at work on the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakSet

from torch import nn
from torch.nn.utils import parametrize

from secateur.core.errors import InputError
from secateur.core.modules import named_modules, named_parameters
from secateur.methods.base import Method, MethodJob
from secateur.methods.gates import Gate

RUNNING: WeakSet[Method] = WeakSet()
"""Started methods, kept alive by the hooks of their optimisers."""


def check_free(job: MethodJob, make: type[Method]) -> None:
    """Raise `InputError` if the method `make` conflicts with one at work on the same weights.

    A method runs once at a time, and only one method may cut weights or compute them from other tensors. Methods that
    add penalties or skip blocks combine with any.
    """
    end = f"end it with its finish() before you start {job.name}."
    meant = {id(p) for name, p in named_parameters(job.model) if job.meant(name)}
    for other in RUNNING:
        clash = type(other) is make or (_cuts_weights(type(other)) and _cuts_weights(make))
        if not (clash and other.at_work and other.job.optimizer is job.optimizer):
            continue
        if any(id(p) in meant for name, p in named_parameters(other.job.model) if other.job.meant(name)):
            raise InputError(f"The method {other.job.name} is at work on these weights already: {end}")
    for name in _gated(job.model) if make.amount != "none" else ():
        if job.meant(name):
            raise InputError(f"A method that computes {name} from other tensors is at work already: {end}")


def _cuts_weights(make: type[Method]) -> bool:
    return make.amount != "none" and make.counts == "weights"


def _gated(model: nn.Module) -> Iterator[str]:
    """Yield the names of gated parameters."""
    for path, module in named_modules(model):
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], Gate):
            yield path.replace("parametrizations.", "")
