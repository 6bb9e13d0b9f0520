"""Modes of batch normalisation during a measurement: running statistics, batch statistics, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.core.contexts import evaluating
from secateur.core.modules import modules_of
from secateur.core.registry import Registry

BATCH_NORMS: Registry[Callable[[_BatchNorm, ExitStack], None]] = Registry("batch_norm")
"""Name → function that changes a batch normalisation until the stack is closed."""


@contextmanager
def normalising(model: nn.Module, batch_norm: str) -> Iterator[None]:
    """Run the block in eval mode, with batch normalisation in the mode `batch_norm`; restore the model after it.

    "eval" uses the running statistics, "train" those of the batch (without an update of the running ones), "removed"
    is the identity. Dropout is off. Raises `InputError` for any other name.
    """
    change = BATCH_NORMS[batch_norm]
    with evaluating(model), ExitStack() as stack:
        for module in modules_of(model):
            if isinstance(module, _BatchNorm):
                change(module, stack)
        yield


@BATCH_NORMS.register("eval")
def running_statistics(module: _BatchNorm, stack: ExitStack) -> None:
    """Normalise by the running statistics."""


@BATCH_NORMS.register("train")
def batch_statistics(module: _BatchNorm, stack: ExitStack) -> None:
    """Normalise by the batch's statistics, without an update of the running ones."""
    stack.callback(setattr, module, "track_running_stats", module.track_running_stats)
    module.train()  # `evaluating` puts it back
    module.track_running_stats = False


@BATCH_NORMS.register("removed")
def removed(module: _BatchNorm, stack: ExitStack) -> None:
    """Return the inputs."""
    stack.enter_context(module.register_forward_hook(lambda module, inputs, output: inputs[0]))
