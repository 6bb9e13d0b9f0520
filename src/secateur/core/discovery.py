"""The modules of a package, found: what each registers is known without a list that names them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules


def import_modules(package: str, path: Iterable[str]) -> None:
    """Import every module of a package in alphabetical order; `path` is the package's `__path__`.

    >>> import_modules("secateur.criteria", import_module("secateur.criteria").__path__)
    """
    for name in sorted(module.name for module in iter_modules(path)):
        import_module(f"{package}.{name}")
