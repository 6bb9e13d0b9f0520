"""Models wrapped for several devices, averaged or compiled: the module inside."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

WRAPPER_CLASSES = (DataParallel, DistributedDataParallel, AveragedModel)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside of DataParallel, DistributedDataParallel, AveragedModel and torch.compile.

    >>> type(unwrapped(DataParallel(nn.Linear(2, 2)))).__name__
    'Linear'
    """
    while True:
        if isinstance(model, WRAPPER_CLASSES):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model
