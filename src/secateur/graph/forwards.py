"""Forwards of modules taken over by a callable, and the names of the torch functions they call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any

from torch import nn
from torch.overrides import resolve_name

from secateur.core.modules import modules_of


@functools.cache
def call_name(function: Callable[..., Any]) -> str:
    """Return the name of a torch function as its documentation writes it: "torch.Tensor.view"."""
    return resolve_name(function) or f"{function.__module__}.{function.__qualname__}"


class Forward:
    """A callable in the place of one module's `forward`, or another method, which it keeps if that was no method."""

    def __init__(self, module: nn.Module, method: str = "forward") -> None:
        self.module, self.method = module, method
        self.replaced: Callable[..., Any] | None = module.__dict__.get(method)
        module.__dict__[method] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the module's own method does."""
        return self.original(*args, **kwargs)

    @property
    def original(self) -> Callable[..., Any]:
        """The method that ran before this callable took its place."""
        if self.replaced is not None:
            return self.replaced
        return functools.partial(getattr(type(self.module), self.method), self.module)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.original)

    @property
    def __code__(self) -> CodeType:  # torch.export names a program by the code it came from
        return type(self).__call__.__code__

    def remove(self) -> None:
        """Give the module back what was there before."""
        if self.replaced is None:
            del self.module.__dict__[self.method]
        else:
            self.module.__dict__[self.method] = self.replaced


def restore(model: nn.Module) -> None:
    """Give every module of `model` back the methods that a `Forward` took the place of."""
    for module in modules_of(model):
        for name in list(vars(module)):
            while isinstance(own := module.__dict__.get(name), Forward):
                own.remove()
