"""Tensors that modules compute from parameters: masks of torch.nn.utils.prune, weight norm, spectral norm, others.

The module works with the computed tensor, the *effective* one; the optimiser and the state dict have its sources. One
of these, the *carrier*, has its shape and usually its zeros: it is the parameter that stands for it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from secateur.core.contexts import evaluating
from secateur.core.errors import ModelError
from secateur.core.modules import named_modules, submodule


@dataclass(frozen=True)
class ComputingHook:
    """A forward pre-hook that computes a tensor: its name, its value, the endings of its sources, the carrier first."""

    leaf: Callable[[Any], str]
    value: Callable[[Any, nn.Module], Tensor]
    sources: tuple[str, ...]
    scale: str = ""


COMPUTING_HOOKS: dict[type, ComputingHook] = {
    BasePruningMethod: ComputingHook(
        lambda hook: str(hook._tensor_name), lambda hook, module: hook.apply_mask(module), ("_orig", "_mask")
    ),
    WeightNorm: ComputingHook(
        lambda hook: str(hook.name),
        lambda hook, module: hook.compute_weight(module),
        ("_v", "_g"),
        scale="_g",
    ),
    SpectralNorm: ComputingHook(
        lambda hook: str(hook.name),
        lambda hook, module: hook.compute_weight(module, do_power_iteration=False),
        ("_orig", "_u", "_v"),
    ),
}
"""Class of a hook → how it computes."""


@dataclass(frozen=True)
class ComputedTensor:
    """The tensor that `module`, at `path`, uses as its attribute `leaf`.

    `sources` are the names of the parameters and buffers it is computed from, `carrier` the one of its own shape, ""
    without any; `scale` is the one that holds its norms, "" without any. `mask` is the buffer of zeros and ones it is
    multiplied by, "" without any. `how` names what computes it.
    """

    module: nn.Module
    path: str
    leaf: str
    sources: tuple[str, ...]
    carrier: str
    how: str
    compute: Callable[[], Tensor]
    scale: str = ""
    mask: str = ""

    @property
    def name(self) -> str:
        """Its name in a model that holds it as a parameter."""
        return f"{self.path}.{self.leaf}" if self.path else self.leaf

    @torch.no_grad()
    def value(self) -> Tensor:
        """Compute it, in eval mode; changes nothing."""
        with evaluating(self.module):
            return self.compute().detach()

    @property
    def trained(self) -> bool:
        """Whether a source of it takes gradients."""
        return any(self.source(name).requires_grad for name in self.sources)

    def source(self, name: str) -> Tensor:
        """Return the source of this name."""
        inner = name.removeprefix(f"{self.path}.") if self.path else name
        owner, _, leaf = inner.rpartition(".")
        found: Tensor = getattr(submodule(self.module, owner), leaf)
        return found

    def norms(self) -> list[int]:
        """The dimensions that one entry of its scale is the norm over."""
        scale, carrier = self.source(self.scale), self.source(self.carrier)
        whole = scale.ndim < carrier.ndim
        return [
            dim for dim, size in enumerate(carrier.shape) if whole or scale.shape[dim] < size or size == 1
        ]

    def rows(self) -> list[int]:
        """The dimensions along which its scale has entries, none without a scale."""
        return (
            [dim for dim in range(self.source(self.carrier).ndim) if dim not in self.norms()]
            if self.scale
            else []
        )

    def alive(self, mask: Tensor) -> Tensor:
        """Return which entries of the scale are of a row with an entry that stays, boolean of the scale's shape."""
        rows = mask
        for dim in self.norms():
            rows = rows.any(dim, keepdim=True)
        return rows.reshape(self.source(self.scale).shape)


def computed_tensors(model: nn.Module) -> list[ComputedTensor]:
    """Return the tensors that the modules of `model` compute from their parameters, in the order of the modules."""
    return [
        each
        for path, module in named_modules(model)
        for each in (*_by_hooks(path, module), *_parametrised(path, module))
    ]


def by_carrier(model: nn.Module) -> dict[str, ComputedTensor]:
    """Return the computed tensors by the names of their carriers; those without a carrier are left out."""
    return {each.carrier: each for each in computed_tensors(model) if each.carrier}


def uses(model: nn.Module) -> dict[int, tuple[nn.Module, str]]:
    """Return by the id of each source the module and the attribute it stands for, "" for those that carry nothing."""
    found: dict[int, tuple[nn.Module, str]] = {}
    for each in computed_tensors(model):
        found |= {id(each.source(name)): (each.module, "") for name in each.sources}
        if each.carrier:
            found[id(each.source(each.carrier))] = each.module, each.leaf
    return found


def refresh(model: nn.Module) -> None:
    """Compute the attributes anew that hooks compute before each forward."""
    for each in computed_tensors(model):
        if each.leaf in vars(each.module):
            setattr(each.module, each.leaf, each.value())


def _by_hooks(path: str, module: nn.Module) -> Iterator[ComputedTensor]:
    prefix = f"{path}." if path else ""
    for hook in module._forward_pre_hooks.values():
        for kind, row in COMPUTING_HOOKS.items():
            if isinstance(hook, kind):
                leaf = row.leaf(hook)
                yield ComputedTensor(
                    module,
                    path,
                    leaf,
                    tuple(f"{prefix}{leaf}{end}" for end in row.sources),
                    f"{prefix}{leaf}{row.sources[0]}",
                    type(hook).__name__,
                    lambda hook=hook, row=row: row.value(hook, module),  # type: ignore[misc]
                    f"{prefix}{leaf}{row.scale}" if row.scale else "",
                    f"{prefix}{leaf}_mask" if "_mask" in row.sources else "",
                )


def _parametrised(path: str, module: nn.Module) -> Iterator[ComputedTensor]:
    if not parametrize.is_parametrized(module):
        return
    for leaf, steps in module.parametrizations.items():  # type: ignore[operator, union-attr]
        start = f"{path}.parametrizations.{leaf}." if path else f"parametrizations.{leaf}."
        tensors = dict([*steps.named_parameters(), *steps.named_buffers()])
        normed = isinstance(steps[0], parametrizations._WeightNorm)
        with evaluating(module), torch.no_grad():
            shape = steps().shape
        alike = [name for name, tensor in tensors.items() if "." not in name and tensor.shape == shape]
        carrier = "original1" if normed else next(iter(alike), "")
        yield ComputedTensor(
            module,
            path,
            leaf,
            tuple(start + name for name in tensors),
            start + carrier if carrier else "",
            " and ".join(type(each).__name__.lstrip("_") for each in steps),
            steps,
            start + "original0" if normed else "",
        )


@contextmanager
def plain(model: nn.Module) -> Iterator[nn.Module]:
    """Have modules hold each tensor that they compute as a parameter of its value while the block runs.

    The model is the same object; a parameter of the block has the name that the module uses, such as "0.weight" for
    "0.weight_orig", and is no leaf of the sources. What the block does to it is lost.
    """
    states = {
        id(each.module): (each.module, type(each.module), vars(each.module))
        for each in computed_tensors(model)
    }
    try:
        make_plain(model)
        yield model
    finally:
        for module, kind, state in states.values():
            module.__class__ = kind
            object.__setattr__(module, "__dict__", state)


def make_plain(model: nn.Module) -> None:
    """Have modules hold each tensor that they compute as a parameter of its value."""
    found = computed_tensors(model)
    values = [nn.Parameter(each.value().clone(), requires_grad=each.trained) for each in found]
    modules = {id(each.module): each.module for each in found}
    for module in modules.values():
        _loosen(module)
    for each, value in zip(found, values, strict=True):
        _hold(each, value)
    for module in modules.values():
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _loosen(module: nn.Module) -> None:
    """Give a module containers of its own, without parametrisations and hooks that compute tensors."""
    state = dict(vars(module))
    for name in ("_parameters", "_buffers", "_modules", "_forward_pre_hooks"):
        state[name] = state[name].copy()
    for key, hook in state["_forward_pre_hooks"].copy().items():
        if isinstance(hook, tuple(COMPUTING_HOOKS)):
            del state["_forward_pre_hooks"][key]
    if parametrize.is_parametrized(module):
        module.__class__ = parametrize.type_before_parametrizations(module)
        del state["_modules"]["parametrizations"]
    object.__setattr__(module, "__dict__", state)


def _hold(each: ComputedTensor, new: nn.Parameter) -> None:
    """Put a parameter in the place of the first source, or at the end, and drop the sources."""
    module, gone = each.module, {name.removeprefix(f"{each.path}.") for name in each.sources}
    held: dict[str, Any] = {}
    for name, parameter in module._parameters.items():
        held.update({name: parameter} if name not in gone else {each.leaf: new})
    vars(module)["_parameters"] = {**held, each.leaf: new}
    for name in gone:
        module._buffers.pop(name, None)
    vars(module).pop(each.leaf, None)


def plain_names(model: nn.Module) -> dict[str, str]:
    """Return for each source of a computed tensor the name it has in `plain`; "" for a source that is not there."""
    return {
        source: each.name if source == each.carrier else ""
        for each in computed_tensors(model)
        for source in each.sources
    }


def check_zeroable(each: ComputedTensor) -> None:
    """Raise `ModelError` unless zeros of the carrier are zeros of the tensor, and change nothing else to zero."""
    if each.mask or each.scale or each.how == "SpectralNorm":
        return
    steps: Any = each.compute
    leaf = each.carrier.rpartition(".")[2]
    if each.carrier:
        original = each.source(each.carrier).detach()
        kept = torch.arange(original.numel(), device=original.device).view(original.shape) % 2 == 0
        with evaluating(each.module), torch.no_grad():
            try:
                value = functional_call(steps, {leaf: original * kept}, ())
            except Exception:  # somebody's code
                value = torch.ones_like(original)
        if not bool((value[~kept] != 0).any()):
            return
    raise _not_zeroable(each)


def _not_zeroable(each: ComputedTensor) -> ModelError:
    return ModelError(
        f"{each.name} is computed by {each.how}, so that its entries can't be set to zero one by one: call "
        f'torch.nn.utils.parametrize.remove_parametrizations(module, "{each.leaf}") first, or leave it out by keep=.'
    )


@torch.no_grad()
def cut_entries(each: ComputedTensor, mask: Tensor) -> None:
    """Set the entries of a tensor to zero that `mask` cuts, in its sources; the others keep their values.

    Under spectral norm they keep their proportions. Raises `ModelError` where that is not possible.
    """
    carrier = each.source(each.carrier)
    mask = mask.to(carrier.device)
    if bool(mask.all()):
        return
    if each.scale:
        _cut_normed(each, carrier, mask)
    else:
        carrier.masked_fill_(~mask, 0)
    if each.mask:
        each.source(each.mask).masked_fill_(~mask, 0)
    if bool((each.value()[~mask] != 0).any()):
        raise _not_zeroable(each)


def _cut_normed(each: ComputedTensor, carrier: Tensor, mask: Tensor) -> None:
    """w = g v / ‖v‖: v loses entries, g goes with its norm; a row without an entry keeps v and has g = 0."""
    scale, dims = each.source(each.scale), each.norms()
    alive = each.alive(mask)
    before = torch.linalg.vector_norm(carrier, dim=dims, keepdim=True).reshape(scale.shape)
    carrier.masked_fill_(~mask & _rows(alive, carrier), 0)
    after = torch.linalg.vector_norm(carrier, dim=dims, keepdim=True).reshape(scale.shape)
    scale.mul_(after / before).masked_fill_(~alive, 0)


def _rows(alive: Tensor, carrier: Tensor) -> Tensor:
    return alive if alive.ndim == carrier.ndim else alive.reshape([1] * carrier.ndim)


@torch.no_grad()
def write_entries(each: ComputedTensor, values: Tensor, mask: Tensor) -> None:
    """Give a tensor new values, zero where `mask` cuts, by its sources.

    Under spectral norm they keep their proportions. Raises `ModelError` where that is not possible.
    """
    carrier = each.source(each.carrier)
    if each.scale:
        alive = _rows(each.alive(values != 0), carrier)
        norms = torch.linalg.vector_norm(values, dim=each.norms(), keepdim=True)
        carrier.copy_(torch.where(alive, values, carrier))
        each.source(each.scale).copy_(norms.reshape(each.source(each.scale).shape))
    elif each.mask or each.how.endswith("SpectralNorm"):
        ratio = 1.0 if each.mask else float(carrier.norm() / each.value().norm())
        carrier.copy_(values * ratio)
    else:
        before, factor = carrier.clone(), torch.where(each.value() != 0, carrier / each.value(), 0)
        try:
            setattr(each.module, each.leaf, values)
        except Exception:  # without an inverse: where it multiplies entry by entry
            carrier.copy_(values * factor)
        if not torch.allclose(each.value(), values, rtol=1e-3, atol=1e-6):
            carrier.copy_(before)
            raise ModelError(
                f"{each.name} is computed by {each.how}, which can't be given other values: take the compensation "
                f'drop, or call torch.nn.utils.parametrize.remove_parametrizations(module, "{each.leaf}") first.'
            )
    cut_entries(each, mask)
