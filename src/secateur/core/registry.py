"""Registries: name → model, data source, criterion, scope, schedule, optimiser, ….

A registry is a read-only mapping. A decorator adds one entry; the command line, the documentation tables and the
shared tests iterate over the registry.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from secateur.core.errors import InputError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to registered items of one `kind` ("model", "criterion", …).

    `elsewhere` maps names in other tools, in lower case without "_" and "-", to the words for the same thing here.

    >>> colours: Registry[int] = Registry("colour")
    >>> colours.add("red", 1)
    1
    >>> colours["red"]
    1
    """

    def __init__(self, kind: str, elsewhere: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}
        self._elsewhere = elsewhere or {}

    def add(self, name: str, item: T) -> T:
        """Register `item` under `name` and return it. Raises `InputError` if the name is taken."""
        if name in self._items:
            raise InputError(f"There is a {self.kind} named '{name}' already: choose another name.")
        self._items[name] = item
        return item

    def register(self, name: str) -> Callable[[T], T]:
        """Return the decorator form of `add`."""
        return lambda item: self.add(name, item)

    def __getitem__(self, name: str) -> T:
        """Return the item `name`. Raises `InputError` with the nearest names for an unknown one."""
        try:
            return self._items[name]
        except (KeyError, TypeError):
            raise InputError(self._unknown(str(name))) from None

    def _unknown(self, name: str) -> str:
        known = self._elsewhere.get(re.sub(r"[\W_]", "", name.lower()))
        if known is None:
            return unknown(self.kind, name, list(self._items))
        return f"There is no {self.kind} named '{name}': here it is {known}."

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, {len(self)} entries)"


def unknown(kind: str, name: str, known: list[str], listing: str | None = None) -> str:
    """Return the sentence for an unknown name: the nearest known ones, or all if they are few.

    `listing` is the reference to the whole list, for kinds with too many names to print.
    """
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif listing is not None:
        hint = f"see {listing}."
    elif known:
        hint = f"choose one of {', '.join(sorted(known))}."
    else:
        hint = "there is none to choose from."
    return f"There is no {kind} named '{name}': {hint}"
