"""Models by name.

A name is enough to build a model again, in another process and on another machine, so a name and its
arguments are what files of this package store. It is one of

- an architecture of ours: `lenet5`, `resnet20`, `vgg16_bn`, … (see `names()`);
- a library and what to take from it: `torchvision:resnet18`, `timm:resnet18`, `hf:PATH_OR_ID`;
- your own code: `package.module:factory`, which building imports.

Adding an architecture is decorating its factory with `model`; adding a library is decorating its resolver
with `source`. What is added so shows up in `names()`, on the command line and in the shared tests.
"""

from __future__ import annotations

from secateur.models import (  # noqa: F401  (they register)
    convnet,
    lenet,
    nasbench201,
    resnet,
    resnet_cifar,
    sources,
    vgg,
)
from secateur.models.building import ModelListing, build, check_name, names, without_pretraining
from secateur.models.registry import MODELS, SOURCES, Architecture, ModelSource, model, source
from secateur.models.user import is_user_code
from secateur.models.weights import load_weights

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
