"""Sparsity as a value: one boolean tensor per pruned parameter, True where the weight is kept.

`Masks` is a read-only mapping that validates itself, knows its numbers, zeroes a model, keeps it zeroed while any
optimiser trains it, and packs itself to one bit a weight for storage. It lives beside the model, never inside it:
the model's class, its state dict and its exports stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import InputError


class Masks(Mapping[str, Tensor]):
    """Parameter name → boolean mask of the parameter's shape; True keeps, False cuts.

    >>> masks = Masks({"weight": torch.tensor([[True, False]])})
    >>> masks.pruned, masks.total, masks.sparsity
    (1, 2, 0.5)
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        """Take a mapping of boolean tensors. Raises `InputError` for any other dtype."""
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise InputError(
                    f"The mask of {name} is {mask.dtype}: masks are boolean, True keeps a weight."
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
        """Fraction of the covered entries that is cut; 0.0 without any mask."""
        return self.pruned / self.total if self else 0.0

    def __and__(self, other: Mapping[str, Tensor]) -> Masks:
        """Keep what both keep; a tensor that only one of them covers takes that one's mask."""
        merged = {**other, **self}
        return Masks({name: mask & other[name] if name in other else mask for name, mask in merged.items()})

    def to(self, device: torch.device | str) -> Masks:
        """Return the masks on another device."""
        return Masks({name: mask.to(device) for name, mask in self.items()})

    def of(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Pair each mask with its parameter, on the parameter's device and in its memory layout.

        Raises `InputError` where the model has no such parameter or another shape.
        """
        parameters = dict(model.named_parameters())
        pairs = []
        for name, mask in self.items():
            if name not in parameters:
                raise InputError(f"There is a mask for {name}, a parameter this model does not have.")
            parameter = parameters[name]
            if parameter.shape != mask.shape:
                raise InputError(
                    f"The mask of {name} is {_shape(mask)}, the parameter is {_shape(parameter)}: "
                    "these masks belong to another model."
                )
            pairs.append((parameter, torch.empty_like(parameter, dtype=torch.bool).copy_(mask)))
        return pairs

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Set every cut weight of `model` to zero, in place."""
        for parameter, mask in self.of(model):
            parameter.mul_(mask)

    def hold(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Held:
        """Keep cut weights at exactly zero through every `optimizer.step()`, momentum and weight decay included.

        >>> layer = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> held = Masks({"weight": torch.tensor([[True, False]])}).hold(layer, optimizer)

        Gradients of cut weights are zeroed before the step, so that they move neither momentum nor second
        moments; the weights are zeroed after it. The first zeroing happens at once. Call `remove()` on the
        result to let go, or use it in a `with`; call its `zero_gradients()` before clipping a gradient's norm.
        """
        return Held(self.of(model), optimizer)

    @classmethod
    def of_zeros(cls, model: nn.Module) -> Masks:
        """Read the masks off a sparse model: every parameter that has zeros, cut where it is exactly zero."""
        kept = {name: parameter.detach() != 0 for name, parameter in model.named_parameters()}
        return cls({name: mask for name, mask in kept.items() if mask.ndim > 1 and not bool(mask.all())})

    def pack(self) -> dict[str, Tensor]:
        """Return the masks at one bit per weight: name → uint8 tensor of ⌈numel / 8⌉ bytes."""
        return {
            name: torch.from_numpy(np.packbits(mask.cpu().numpy().ravel())) for name, mask in self.items()
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Masks:
        """Undo `pack`, given each mask's shape."""
        masks = {}
        for name, bits in packed.items():
            size = int(np.prod(shapes[name], dtype=np.int64))
            flat = np.unpackbits(bits.numpy(), count=size).astype(np.bool_)
            masks[name] = torch.from_numpy(flat).reshape(tuple(shapes[name]))
        return cls(masks)


class Held:
    """Masks at work on a model and its optimiser, until `remove()` or the end of a `with`."""

    def __init__(self, pairs: list[tuple[nn.Parameter, Tensor]], optimizer: torch.optim.Optimizer) -> None:
        """Zero the weights and keep them zero; one fused multiplication serves all of them, which is fast."""
        self._parameters = [parameter for parameter, _ in pairs]
        self._factors = [mask.to(parameter.dtype) for parameter, mask in pairs]
        self._hooks = (
            optimizer.register_step_pre_hook(lambda *_: self.zero_gradients()),
            optimizer.register_step_post_hook(lambda *_: self.zero_weights()),
        )
        self.zero_weights()

    @torch.no_grad()
    def zero_gradients(self) -> None:
        """Zero the gradients of cut weights; the optimiser's step does it by itself."""
        gradients = [parameter.grad for parameter in self._parameters]
        present = [
            (grad, factor) for grad, factor in zip(gradients, self._factors, strict=True) if grad is not None
        ]
        if present:
            torch._foreach_mul_([grad for grad, _ in present], [factor for _, factor in present])

    @torch.no_grad()
    def zero_weights(self) -> None:
        """Zero the cut weights; the optimiser's step does it by itself."""
        if self._parameters:
            torch._foreach_mul_(self._parameters, self._factors)

    def remove(self) -> None:
        """Let go."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _shape(tensor: Tensor) -> str:
    return "×".join(str(size) for size in tensor.shape) or "a scalar"
