"""Masks: one boolean tensor per pruned parameter, True for kept weights.

`Masks` is a read-only mapping with validation, counts, zeroing of a model, zeroing under any optimiser, and packing to
one bit per weight. It is stored beside the model, never inside it: the model's class, state dict and exports are
unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from secateur.core.computed import ComputedTensor, by_carrier, computed_tensors, refresh
from secateur.core.errors import InputError
from secateur.core.modules import named_parameters, parameters_of
from secateur.core.naming import matched
from secateur.sparsity.targets import require_module


class Masks(Mapping[str, Tensor]):
    """Parameter name → boolean mask of the parameter's shape; True keeps, False cuts.

    >>> masks = Masks({"weight": torch.tensor([[True, False]])})
    >>> masks.pruned, masks.total, masks.sparsity
    (1, 2, 0.5)
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        """Take a mapping of boolean tensors. Raises `InputError` for other types or dtypes."""
        for name, mask in masks.items():
            kind = mask.dtype if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
            if kind != torch.bool:
                raise InputError(
                    f"The mask of {name} is {kind}: masks are boolean tensors, True keeps a weight."
                )
        self._masks = dict(masks)

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        return (
            f"Masks({len(self)} tensors, {self.pruned:,} of {self.total:,} cut, sparsity {self.sparsity:.4f})"
        )

    @property
    def total(self) -> int:
        """Entries covered by a mask."""
        return sum(mask.numel() for mask in self.values())

    @property
    def pruned(self) -> int:
        """Entries cut."""
        return sum(mask.numel() - int(mask.count_nonzero()) for mask in self.values())

    @property
    def sparsity(self) -> float:
        """Fraction of the covered entries that is cut; 0.0 if none is covered."""
        return self.pruned / max(1, self.total)

    def __and__(self, other: Mapping[str, Tensor]) -> Masks:
        """Return the elementwise conjunction; a tensor covered by only one of the two takes its mask.

        Raises `InputError` if two masks of a tensor differ in shape.
        """
        merged = {**self, **other}
        for name, mask in self.items():
            if mask.shape != merged[name].shape:
                raise InputError(
                    f"Two masks of {name} differ in shape, {_shape(mask)} and {_shape(merged[name])}: "
                    "they belong to different models."
                )
            merged[name] = mask & merged[name].to(mask.device)
        return Masks(merged)

    def to(self, device: torch.device | str) -> Masks:
        """Return the masks on another device."""
        return Masks({name: mask.to(device) for name, mask in self.items()})

    def of(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Pair each mask with its parameter, on the parameter's device and in its memory layout.

        A tied parameter has several valid names; the prefixes of wrapped and compiled models, and what
        torch.nn.utils.prune and parametrisations make of names, don't count. A row that is cut under weight norm is
        zeroed by its norm. Raises `InputError` if the model has no such parameter or one of another shape.
        """
        require_module(model)
        parameters = dict(named_parameters(model, remove_duplicate=False))
        names, normed = matched(self, parameters), _normed(model)
        pairs: list[tuple[nn.Parameter, Tensor]] = []
        for name, mask in self.items():
            if name not in names:
                raise InputError(f"There is a mask for {name}, a parameter this model does not have.")
            parameter = parameters[names[name]]
            if parameter.shape != mask.shape:
                raise InputError(
                    f"The mask of {name} is {_shape(mask)}, the parameter is {_shape(parameter)}: "
                    "these masks belong to another model."
                )
            own = torch.empty_like(parameter, dtype=torch.bool).copy_(mask)
            of = normed.get(names[name])
            pairs += [(parameter, own)] if of is None else _by_norms(of, parameter, own)
        return pairs

    def named_as_in(self, model: nn.Module) -> Masks:
        """Return the masks by the names of the model's own parameters. Raises `InputError` as `of` does."""
        self.of(model)
        names = matched(self, (name for name, _ in named_parameters(model, remove_duplicate=False)))
        return Masks({names[name]: mask for name, mask in self.items()})

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Set every cut weight of `model` to zero, in place, including NaN and infinity."""
        for parameter, mask in self.of(model):
            parameter.masked_fill_(~mask, 0)
        refresh(model)

    def hold(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Held:
        """Keep cut weights at exactly zero through every `optimizer.step()`, momentum and weight decay included.

        >>> layer = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> held = Masks({"weight": torch.tensor([[True, False]])}).hold(layer, optimizer)

        Gradients of cut weights are zeroed before the step, so that they move neither momentum nor second
        moments; the weights are zeroed after it, and once at this call. Call `remove()` on the result to release
        the model, or use it in a `with`; call its `zero_gradients()` before clipping a gradient's norm. Move the
        model to its device first. Zero times a gradient that has overflown is NaN, for cut weights too. Raises
        `InputError` for masks of another model, and for an optimiser that holds none of the model's parameters.
        """
        given: Any = optimizer
        while not isinstance(given, torch.optim.Optimizer) and hasattr(given, "optimizer"):
            given = given.optimizer  # of Lightning and its like
        optimizer = given
        if len(self):
            require_owned(model, optimizer)
        self.apply_(model)
        return Held(self.of(model), optimizer)

    @classmethod
    def of_zeros(cls, model: nn.Module) -> Masks:
        """Return the masks of a sparse model: every matrix or kernel with zeros, cut at entries that equal zero.

        Of a tensor that the module computes, as under masks of torch.nn.utils.prune or a parametrisation, the values
        it works with count; the mask goes by the name of the parameter of that shape.
        """
        computed = by_carrier(model)
        kept = {
            name: (computed[name].value() if name in computed else parameter.detach()) != 0
            for name, parameter in named_parameters(model)
        }
        return cls({name: mask for name, mask in kept.items() if mask.ndim > 1 and not bool(mask.all())})

    def pack(self) -> dict[str, Tensor]:
        """Return the masks packed to one bit per weight: name → uint8 tensor [⌈numel / 8⌉]."""
        return {
            name: torch.from_numpy(np.packbits(mask.cpu().numpy().ravel())) for name, mask in self.items()
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Masks:
        """Invert `pack`, given each mask's shape. Raises `InputError` if names or sizes do not match."""
        if packed.keys() != shapes.keys():
            raise InputError("The packed masks and their shapes do not go by the same names.")
        masks = {}
        for name, shape in shapes.items():
            bits, size = packed[name], math.prod(shape)
            if min(shape, default=0) < 0 or bits.dtype != torch.uint8 or bits.shape != (-(-size // 8),):
                raise InputError(
                    f"The packed mask of {name} does not have the bits of its shape {list(shape)}."
                )
            flat = np.unpackbits(bits.cpu().numpy(), count=size).astype(np.bool_)
            masks[name] = torch.from_numpy(flat).reshape(tuple(shape))
        return cls(masks)


class Held:
    """Hooks on an optimiser that keep cut weights at zero, until `remove()` or the end of a `with`."""

    def __init__(self, pairs: list[tuple[nn.Parameter, Tensor]], optimizer: torch.optim.Optimizer) -> None:
        """Register the hooks; each multiplies all tensors in one fused call."""
        self.change(pairs)
        self._hooks = (
            before_step(optimizer, self.zero_gradients),
            optimizer.register_step_post_hook(lambda *_: self.zero_weights()),
        )

    def change(self, pairs: list[tuple[nn.Parameter, Tensor]]) -> None:
        """Replace the masks, as pairs of `Masks.of`; weights they cut are zeroed after the next step."""
        self._parameters: list[Tensor] = [parameter for parameter, _ in pairs]
        self._factors = [mask.to(parameter.dtype) for parameter, mask in pairs]

    @torch.no_grad()
    def zero_gradients(self) -> None:
        """Zero the gradients of cut weights; called by every step of the optimiser."""
        gradients = [parameter.grad for parameter in self._parameters]
        present = [
            (grad, factor) for grad, factor in zip(gradients, self._factors, strict=True) if grad is not None
        ]
        if present:
            torch._foreach_mul_([grad for grad, _ in present], [factor for _, factor in present])

    @torch.no_grad()
    def zero_weights(self) -> None:
        """Zero the cut weights; called by every step of the optimiser."""
        if self._parameters:
            torch._foreach_mul_(self._parameters, self._factors)

    def remove(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def require_owned(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise `InputError` unless the optimiser is one of torch that holds a parameter of the model."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(
            f"The optimiser is a {type(optimizer).__name__}: pass a torch.optim.Optimizer, unwrapped."
        )
    owned = {id(each) for group in optimizer.param_groups for each in group["params"]}
    if not any(id(parameter) in owned for parameter in parameters_of(model)):
        raise InputError(
            "The optimiser holds none of the model's parameters: make it from model.parameters(), of the model that "
            "trains, such as result.model."
        )


def before_step(optimizer: torch.optim.Optimizer, act: Callable[[], None]) -> RemovableHandle:
    """Call `act` in every `optimizer.step()` once the gradients are computed: after its closure, if it is given one.

    Returns the handle that removes the hook.
    """

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = args[1] if len(args) > 1 else kwargs.get("closure")
        if given is None:
            act()
            return args, kwargs

        def closure() -> Any:
            loss = given()
            act()
            return loss

        return args[:1], {**kwargs, "closure": closure}

    return optimizer.register_step_pre_hook(hook)


def masked_by_torch(model: nn.Module) -> Masks:
    """Return the masks that torch.nn.utils.prune holds in a model, by the names of the parameters under them."""
    return Masks({each.carrier: each.source(each.mask) != 0 for each in computed_tensors(model) if each.mask})


def _normed(model: nn.Module) -> dict[str, ComputedTensor]:
    """Return the tensors under weight norm by the names of their carriers."""
    return {name: each for name, each in by_carrier(model).items() if each.scale}


def _by_norms(of: ComputedTensor, carrier: nn.Parameter, mask: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
    """Return the masks of direction and norms for that of a tensor g v / ‖v‖: a row that is cut keeps v and loses g."""
    alive, scale = of.alive(mask), of.source(of.scale)
    if bool(alive.all()) or not isinstance(scale, nn.Parameter):
        return [(carrier, mask)]
    whole = alive if alive.ndim == mask.ndim else alive.reshape([1] * mask.ndim)
    return [(carrier, mask | ~whole), (scale, alive)]


def _shape(tensor: Tensor) -> str:
    return "×".join(str(size) for size in tensor.shape) or "a scalar"
