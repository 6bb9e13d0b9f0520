"""Packages that import what they offer when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package that imports a name of `_homes`, or one of its modules, when that is first asked for.

    Names of `_homes` win: a module of the same name, once imported, does not hide them. Packages in it become lazy in
    the same way.
    """

    _homes: Mapping[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self._homes:
            module, _, attribute = self._homes[name].partition(":")
            value = getattr(import_module(module), attribute)
            setattr(self, name, value)
            return value
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return self._module(f"{self.__name__}.{name}", name)

    def _module(self, path: str, name: str) -> ModuleType:
        try:
            return import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                raise
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and value.__name__ == f"{self.__name__}.{name}":  # just imported
            _open(value)
            if name in self._homes:
                return
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        modules = {found.name for found in iter_modules(self.__path__) if not found.name.startswith("_")}
        return sorted({*self._homes, *modules} if self._homes else {*super().__dir__(), *modules})


def make_lazy(package: str, homes: Mapping[str, str]) -> None:
    """Have the package that is being imported offer its modules, and names as `homes` says: name → "module:attribute".

    To be called by its `__init__`, with `__name__`.
    """
    module = sys.modules[package]
    _open(module)
    vars(module)["_homes"] = homes
    for name, value in list(vars(module).items()):
        setattr(module, name, value)


def _open(module: ModuleType) -> None:
    if hasattr(module, "__path__"):
        module.__class__ = LazyPackage
