"""The modules and tensors of a model, read from the tables that every `nn.Module` keeps of them.

A model may use the names of torch's methods for something else: `self.modules = [...]`, `def train(self, data)`, a
child called "parameters". So none of its methods is called here, and no child or tensor is asked for as an attribute.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from secateur.core.errors import ModelError


def named_modules(model: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """Yield path and module of a model and all inside it, parents first; one with several paths once, or at each."""
    return _modules(model, "", set() if remove_duplicate else None)


def _modules(module: nn.Module, path: str, seen: set[int] | None) -> Iterator[tuple[str, nn.Module]]:
    if seen is not None:
        if id(module) in seen:
            return
        seen.add(id(module))
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _modules(child, f"{path}.{name}" if path else name, seen)


def named_parameters(
    model: nn.Module, *, remove_duplicate: bool = True, recurse: bool = True
) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield name and parameter; a tied one once, by its first name, or by each; without `recurse` the model's own."""
    return _tensors(model, "_parameters", remove_duplicate, recurse)


def named_buffers(model: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Yield name and buffer, as `named_parameters` does."""
    return _tensors(model, "_buffers", remove_duplicate, True)


def _tensors(model: nn.Module, table: str, once: bool, recurse: bool) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    for path, module in named_modules(model, remove_duplicate=once) if recurse else [("", model)]:
        for name, tensor in getattr(module, table).items():
            if tensor is None or id(tensor) in seen:
                continue
            if once:
                seen.add(id(tensor))
            yield f"{path}.{name}" if path else name, tensor


def modules_of(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model and all modules inside it, each once."""
    return (module for _, module in named_modules(model))


def parameters_of(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of a model, each once."""
    return (parameter for _, parameter in named_parameters(model))


def buffers_of(model: nn.Module) -> Iterator[Tensor]:
    """Yield the buffers of a model, each once."""
    return (buffer for _, buffer in named_buffers(model))


def submodule(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a path, the model itself for "". Raises `ModelError` where there is none."""
    module: nn.Module | None = model
    for name in path.split(".") if path else ():
        module = None if module is None else module._modules.get(name)
    if module is None:
        raise ModelError(f"{type(model).__name__} has no module {path}.")
    return module


@contextmanager
def tensors_replaced(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other tensors in the place of parameters and buffers while the block runs: name → tensor.

    A tied one is replaced wherever it stands. Raises `ModelError` for a name the model lacks.
    """
    places = [
        (owner, name, tensor)
        for module in modules_of(model)
        for owner in (module._parameters, module._buffers)
        for name, tensor in owner.items()
    ]
    own: dict[str, Tensor] = {
        **dict(named_parameters(model, remove_duplicate=False)),
        **dict(named_buffers(model, remove_duplicate=False)),
    }
    if foreign := sorted(values.keys() - own.keys()):
        raise ModelError(f"{type(model).__name__} has no tensor {foreign[0]}.")
    others = {id(own[name]): value for name, value in values.items()}
    try:
        for owner, name, tensor in places:
            if id(tensor) in others:
                owner[name] = others[id(tensor)]  # type: ignore[assignment]
        yield
    finally:
        for owner, name, tensor in places:
            owner[name] = tensor  # type: ignore[assignment]


def set_mode(model: nn.Module, training: bool) -> None:
    """Set all modules to training or eval mode, by their own `train` where theirs takes a mode."""
    own = type(model).train
    if own is not nn.Module.train and "mode" in _names(own):
        own(model, training)
        return
    model.training = training
    for child in model._modules.values():
        if child is not None:
            set_mode(child, training)


def _names(method: Callable[..., Any]) -> list[str]:
    """Return the names of a method's arguments, none where they can't be told."""
    try:
        return [*inspect.signature(method).parameters]
    except (TypeError, ValueError):
        return []


def torch_method(model: nn.Module, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call a method of `nn.Module`: the model's own version of it where that takes these arguments."""
    own = getattr(type(model), name)
    try:
        inspect.signature(own).bind(model, *args, **kwargs)
    except (TypeError, ValueError):
        own = getattr(nn.Module, name)
    return own(model, *args, **kwargs)
