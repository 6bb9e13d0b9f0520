"""Arguments of torch's operators by the names that their schemas give them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

REQUIRED: Any = object()
"""Stands for a default that is not there."""


@functools.cache
def operator_name(overload: Any) -> str:
    """Return the name of an operator without its namespace and overload: "addmm" of `torch.ops.aten.addmm.default`."""
    return str(overload._schema.name).partition("::")[2]


@functools.cache
def positions(overload: Any) -> Mapping[str, tuple[int, Any]]:
    """Return name → (position, default) of an operator's arguments, in order; `REQUIRED` for one without a default."""
    return {
        argument.name: (at, argument.default_value if argument.has_default_value() else REQUIRED)
        for at, argument in enumerate(overload._schema.arguments)
    }


def given(
    overload: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str, default: Any = REQUIRED
) -> Any:
    """Return the argument `name` of an operator as it was given, or the schema's default.

    `default` is for operators that have no such argument; without one, these raise `TypeError`.
    """
    at, usual = positions(overload).get(name, (-1, default))
    if 0 <= at < len(args):
        return args[at]
    value = kwargs.get(name, usual)
    if value is REQUIRED:
        raise TypeError(f"{operator_name(overload)} was given no argument {name}")
    return value


@functools.cache
def written_arguments(overload: Any) -> tuple[str, ...]:
    """Return the names of the arguments that an operator writes to."""
    arguments = overload._schema.arguments
    return tuple(each.name for each in arguments if each.alias_info is not None and each.alias_info.is_write)


@functools.cache
def returns_view(overload: Any) -> bool:
    """Whether an operator returns a view of an argument, to which it writes nothing."""
    returns = (each.alias_info for each in overload._schema.returns)
    return any(alias is not None and not alias.is_write for alias in returns)


def in_parts(mode: Any, overload: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator that torch composes of others in these, each seen by the dispatch mode `mode`.

    Returns `NotImplemented` for one that is not composed of others, and runs nothing. Such operators arrive whole in
    `torch.inference_mode` alone.
    """
    with mode:
        return overload.decompose(*args, **kwargs)
