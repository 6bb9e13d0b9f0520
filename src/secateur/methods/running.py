"""Which methods are at work already where another is to start."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakSet

from torch import nn
from torch.nn.utils import parametrize

from secateur.core.errors import InputError
from secateur.methods.base import Method, MethodJob
from secateur.methods.gates import Gate

RUNNING: WeakSet[Method] = WeakSet()
"""Methods that were started; an optimiser's hooks keep its own alive."""


def check_free(job: MethodJob, make: type[Method]) -> None:
    """Raise `InputError` where the method `make` would get in the way of one that is at work on the same weights.

    A method runs once, and one method at a time cuts weights or computes them from others. What only adds penalties,
    or leaves blocks out, goes along with any.
    """
    end = f"end it with its finish() before you start {job.name}."
    meant = {id(p) for name, p in job.model.named_parameters() if job.meant(name)}
    for other in RUNNING:
        clash = type(other) is make or (_cuts_weights(type(other)) and _cuts_weights(make))
        if not (clash and other.at_work and other.job.optimizer is job.optimizer):
            continue
        if any(id(p) in meant for name, p in other.job.model.named_parameters() if other.job.meant(name)):
            raise InputError(f"The method {other.job.name} is at work on these weights already: {end}")
    for name in _gated(job.model) if make.amount != "none" else ():
        if job.meant(name):
            raise InputError(f"A method that computes {name} from other tensors is at work already: {end}")


def _cuts_weights(make: type[Method]) -> bool:
    return make.amount != "none" and make.counts == "weights"


def _gated(model: nn.Module) -> Iterator[str]:
    """Yield the names of parameters that stand behind a method's gate."""
    for path, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], Gate):
            yield path.replace("parametrizations.", "")
