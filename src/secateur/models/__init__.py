"""Models by name.

Files of this package store a model's name and arguments, from which any process can build it again. A name is

- one of the built-in architectures: `lenet5`, `resnet20`, `vgg16_bn`, … (see `names()`);
- a model of a library: `torchvision:resnet18`, `timm:resnet18`, `hf:PATH_OR_ID`;
- a factory in the user's code, which building imports: `package.module:factory`.

An architecture is added by decorating its factory with `model`, a library by decorating its resolver with
`source`. Both then appear in `names()`, on the command line and in the shared tests.
"""

from __future__ import annotations

from secateur.core.discovery import import_modules
from secateur.models.building import ModelListing, build, check_name, names, without_pretraining
from secateur.models.registry import MODELS, SOURCES, Architecture, ModelSource, model, source
from secateur.models.user import is_user_code
from secateur.models.weights import load_weights

import_modules(__name__, __path__)  # they register

__all__ = [
    "MODELS",
    "SOURCES",
    "Architecture",
    "ModelListing",
    "ModelSource",
    "build",
    "check_name",
    "is_user_code",
    "load_weights",
    "model",
    "names",
    "source",
    "without_pretraining",
]
