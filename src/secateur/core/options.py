"""Options that functions declare as keyword-only parameters: names, defaults and checks of types."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints

from secateur.core.errors import InputError

NONE = type(None)
OPTION_TYPES: dict[type, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    NONE: (NONE, "None"),
}
"""Type in a signature → (abstract type of its values, noun in messages). A bool is never a number here.

Values of other types are not checked; names are checked by their registry.
"""


MACHINE = {"machine": True}
"""Mark of fields of the machine and the output, which are not part of the identity of a run."""


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a function with their defaults.

    >>> options_of(lambda weight, *, norm="l1": weight)
    {'norm': 'l1'}
    """
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def options_from(values: object, function: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a function with values from the attributes of an object.

    >>> options_from(slice(1, 2), lambda weight, *, start=0: weight)
    {'start': 1}
    """
    return {name: getattr(values, name) for name in options_of(function)}


def check_options(owner: str, given: Mapping[str, Any], *functions: Callable[..., Any]) -> None:
    """Raise `InputError` unless every option `given` is one of the functions' and of the type declared there.

    Without an annotation the type of the default is used. `owner` is the name of the functions in messages.

    >>> check_options("the criterion magnitude", {"norm": "l2"}, lambda weight, *, norm="l1": weight)
    """
    declared = {name: kinds for each in functions for name, kinds in _declared(each).items()}
    for name, value in given.items():
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise InputError(
                f"{owner[:1].upper()}{owner[1:]} has no option '{name}': its options are {known}."
            )
        check_kind(f"option {name} of {owner}", value, *declared[name])


def check_kind(what: str, value: Any, *kinds: type) -> None:
    """Raise `InputError` unless a value is of one of these types; types outside `OPTION_TYPES` accept every value.

    >>> check_kind("setting seed", 3, int)
    """
    if kinds and all(kind in OPTION_TYPES for kind in kinds) and not any(_is(value, kind) for kind in kinds):
        wanted = " or ".join(OPTION_TYPES[kind][1] for kind in kinds)
        raise InputError(f"The {what} is {value!r}: give {wanted}.")


def check_least(what: str, value: Any, least: float) -> None:
    """Raise `InputError` unless a value is a finite number ≥ `least`, and an integer if `least` is one.

    >>> check_least("number of rounds", 3, 1)
    """
    if not _is(value, type(least)) or not least <= value < math.inf:
        raise InputError(f"The {what} is {value!r}: give {OPTION_TYPES[type(least)][1]} from {least:g}.")


def kinds_of(hint: Any) -> tuple[type, ...]:
    """Return the types of an annotation: int | None → int, None."""
    return get_args(hint) or (hint,)


def _declared(function: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    defaults = options_of(function)
    signed: Any = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    try:
        hints = get_type_hints(signed)
    except NameError:  # a name that is imported for type checkers only
        hints = {}
    return {
        name: kinds_of(hints[name]) if name in hints else (() if default is None else (type(default),))
        for name, default in defaults.items()
    }


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, OPTION_TYPES[kind][0]) and (kind is bool or not isinstance(value, bool))
