"""Data sets by name, kept decoded in memory, and the batches a trainer draws from them.

`load` turns a name into a `Dataset`; `Batches` turns a `Dataset` into normalised batches on a device.
"""

from secateur.core.discovery import import_modules
from secateur.data.augment import AUGMENTATIONS, Augmentation
from secateur.data.batches import Batch, Batches
from secateur.data.dataset import Dataset, Split
from secateur.data.held import held
from secateur.data.registry import DATA, Request, load, names, normalisation, source

import_modules(__name__, __path__)  # they register

__all__ = [
    "AUGMENTATIONS",
    "DATA",
    "Augmentation",
    "Batch",
    "Batches",
    "Dataset",
    "Request",
    "Split",
    "held",
    "load",
    "names",
    "normalisation",
    "source",
]
