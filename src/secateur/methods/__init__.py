"""Pruning during training: gradual, by learned scores, by moving connections, by penalties, by dropout.

    pruning = secateur.methods.start("rigl", model, optimizer, steps=1000, amount=0.9)
    ...                                   # any loop; loss = task_loss + pruning.penalty()
    masks = pruning.finish()

Every module of this package registers its methods.
"""

from secateur.core.discovery import import_modules
from secateur.methods.base import Method, MethodJob
from secateur.methods.registry import METHODS, Entry, extra_options, method, start

import_modules(__name__, __path__)

__all__ = ["METHODS", "Entry", "Method", "MethodJob", "extra_options", "method", "start"]
