"""Pruning during training: gradual, by learned scores, by moving connections, by penalties, by dropout.

    pruning = secateur.methods.start("rigl", model, optimizer, steps=1000, amount=0.9)
    ...                                   # any loop; loss = task_loss + pruning.penalty()
    masks = pruning.finish()

Each file registers its methods on import.
"""

from secateur.methods import (  # noqa: F401
    dynamic,
    gradual,
    group_lasso,
    growing,
    l0,
    layerdrop,
    movement,
    slimming,
    supermask,
    targeted_dropout,
)
from secateur.methods.base import Method, MethodJob
from secateur.methods.registry import METHODS, Entry, loose_options, method, start

__all__ = ["METHODS", "Entry", "Method", "MethodJob", "loose_options", "method", "start"]
