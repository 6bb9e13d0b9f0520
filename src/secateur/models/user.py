"""Models from the user's own code, written `package.module:factory`.

Importing code runs it. `is_user_code` recognises such names, so that a caller can require consent to a name read
from a file.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import nn

from secateur.core.errors import InputError, ModelError
from secateur.core.registry import unknown
from secateur.models.call import parameters, reason
from secateur.models.registry import SOURCES, Factory, ModelArguments


def is_user_code(name: str) -> bool:
    """Tell whether building the model `name` imports code: `module:factory`, with a prefix of no source."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix not in SOURCES


@contextmanager
def working_folder() -> Iterator[None]:
    """Make modules in the current folder importable, ahead of all others, while the block runs."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)


def resolve(name: str, num_classes: int | None, arguments: ModelArguments) -> tuple[Factory, ModelArguments]:
    """Import the factory `module:factory`; `num_classes` is added to `arguments` if the factory takes it.

    Raises `InputError` if there is no such module or factory, and `ModelError` if the import fails.
    """
    factory = _import(name)
    if num_classes is not None and "num_classes" in parameters(factory):
        arguments = {"num_classes": num_classes, **arguments}
    return factory, arguments


def _import(name: str) -> Factory:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise InputError(f"'{name}' names no model: write package.module:factory for your own code.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        lacking = error.name if isinstance(error, ModuleNotFoundError) else None
        if lacking is not None and f"{module_name}.".startswith(f"{lacking}."):
            raise InputError(
                f"There is no module '{lacking}' to import {name} from: start in the folder that holds it, "
                f"or use one of the prefixes {', '.join(SOURCES)}."
            ) from None
        raise ModelError(f"Importing the model {name} failed: {reason(error)}.") from error
    factory = getattr(module, attribute, None)
    if factory is None:
        public = [key for key in vars(module) if not key.startswith("_")]
        raise InputError(
            unknown(f"factory in {module_name}", attribute, public, f"the source of {module_name}")
        )
    if isinstance(factory, nn.Module) or not callable(factory):
        raise InputError(f"{name} is no function or class: name one that returns the model.")
    return factory  # type: ignore[no-any-return]
