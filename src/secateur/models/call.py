"""Calls of model factories, with their failures as one-sentence errors."""

from __future__ import annotations

import inspect
import re

from torch import nn

from secateur.core.errors import InputError, ModelError, SecateurError
from secateur.core.registry import unknown
from secateur.models.registry import Factory, ModelArguments

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def call(name: str, factory: Factory, arguments: ModelArguments) -> nn.Module:
    """Return `factory(**arguments)`, the model called `name`.

    Raises `InputError` for an unknown or missing argument, and `ModelError` if the factory fails or returns
    no `nn.Module`.
    """
    _check_arguments(name, factory, arguments)
    try:
        built = factory(**arguments)
    except SecateurError:
        raise
    except Exception as error:
        refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if isinstance(error, TypeError) and refused and refused[1] in arguments:
            raise InputError(
                f"The model {name} takes no argument named '{refused[1]}': leave it out."
            ) from error
        raise ModelError(f"The model {name} can't be built: {reason(error)}.") from error
    if not isinstance(built, nn.Module):
        raise ModelError(
            f"The factory of {name} must return an nn.Module, but returned a {type(built).__name__}."
        )
    return built


def reason(error: BaseException) -> str:
    """Return the type of an exception and the first line of its message, without its full stop."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def parameters(factory: Factory) -> dict[str, inspect.Parameter]:
    """Return the named parameters of `factory`, without `*args` and `**kwargs`."""
    found = inspect.signature(factory).parameters
    return {key: value for key, value in found.items() if value.kind not in _VARIADIC}


def _check_arguments(name: str, factory: Factory, arguments: ModelArguments) -> None:
    known = parameters(factory)
    kinds = {parameter.kind for parameter in inspect.signature(factory).parameters.values()}
    unexpected = [key for key in arguments if key not in known]
    if unexpected and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise InputError(unknown(f"argument of the model {name}", unexpected[0], list(known)))
    missing = [key for key, value in known.items() if value.default is value.empty and key not in arguments]
    if missing:
        raise InputError(f"The model {name} needs a value for its argument '{missing[0]}'.")
