"""Plain JSON to values of declared types: dataclasses, tuples, dictionaries, numbers and texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


class TypeMismatch(ValueError):
    """JSON that is not of the declared type; `place` leads to it, as in `overrides.0.value`."""

    def __init__(self, place: tuple[str, ...]) -> None:
        super().__init__(".".join(place))
        self.place = ".".join(place)


def typed(kind: Any, value: Any, place: tuple[str, ...] = ()) -> Any:
    """Return JSON as a value of `kind`; lists become tuples, nothing else is converted.

    `kind` is int, float, str, `tuple[X, ...]`, `dict[str, X]`, a union of such, or a dataclass of such fields, which
    takes its own from a JSON object and leaves the others. Raises `TypeMismatch`, a `ValueError`.

    >>> typed(dict[str, tuple[int, ...]], {"weight": [4, 2]})
    {'weight': (4, 2)}
    """
    origin, parts = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(value, dict):
        return kind(**dict(_fields(kind, value, place)))  # type: ignore[operator]
    if origin is tuple and isinstance(value, list):
        return tuple(typed(parts[0], each, (*place, str(number))) for number, each in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {name: typed(parts[1], each, (*place, str(name))) for name, each in value.items()}
    if origin in (Union, UnionType):
        kind = type(value) if type(value) in parts else None
    if type(value) is not kind:
        raise TypeMismatch(place)
    return value


def _fields(kind: Any, value: dict[str, Any], place: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a dataclass with their values; those with a default may be missing."""
    kinds = get_type_hints(kind)
    for field in fields(kind):
        if field.name in value:
            yield field.name, typed(kinds[field.name], value[field.name], (*place, field.name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise TypeMismatch((*place, field.name))
