"""Linear interpolation of two models: W(α) = (1 − α) A + α B, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.core.copying import duplicate
from secateur.core.errors import InputError, ModelError
from secateur.core.modules import named_modules, parameters_of
from secateur.sparsity.masks import Masks


class Between:
    """One work model for all points on the straight line from model `a` to model `b`.

    Floating-point and complex tensors of the state dict are interpolated in their own dtype; all others are those of
    `a`. The work model, a copy of `a` on its device, is the only copy; `a` and `b` are unchanged. `masks` are those of
    `a` and of `b` (default none); weights cut in both stay exactly zero on the whole line. Raises `ModelError` if
    names, classes or shapes of the models differ, `InputError` if both have masks and these differ.

    >>> a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(a.weight, 2.0), nn.init.constant_(b.weight, 4.0)
    >>> Between(a, b).at(0.25).weight.item()
    2.5
    """

    def __init__(
        self,
        a: nn.Module,
        b: nn.Module,
        masks: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
    ) -> None:
        _check_alike(a, b)
        self._masks = _common(*(masks or ({}, {})))
        self._masks.of(a)
        self.model = duplicate(a)
        ends, others = a.state_dict(), b.state_dict()
        self._tensors = [
            (tensor, ends[name], others[name].to(tensor.device))
            for name, tensor in self.model.state_dict().items()
            if isinstance(tensor, Tensor) and (tensor.is_floating_point() or tensor.is_complex())
        ]

    @torch.no_grad()
    def at(self, alpha: float) -> nn.Module:
        """Return the work model at `alpha`: exactly `a` at 0, exactly `b` at 1."""
        for tensor, start, end in self._tensors:
            torch.lerp(start, end, alpha, out=tensor)  # exact at both ends
        self._masks.apply_(self.model)
        return self.model


def _check_alike(a: nn.Module, b: nn.Module) -> None:
    """Raise `ModelError` unless modules and tensors of both models have the same names, classes and shapes."""
    for what, one, other in (
        ("module", _modules(a), _modules(b)),
        ("tensor", _tensors(a), _tensors(b)),
        ("parameters, tied ones counted once,", {"number": _count(a)}, {"number": _count(b)}),
    ):
        for name in [*one, *(name for name in other if name not in one)]:
            if one.get(name) != other.get(name):
                raise ModelError(
                    f"There is no line between the two models: the {what} {name or '(whole)'} is "
                    f"{one.get(name, 'missing')} in the first and {other.get(name, 'missing')} in the second; "
                    "take two models of one architecture."
                )


def _modules(model: nn.Module) -> dict[str, str]:
    return {name: type(module).__name__ for name, module in named_modules(model)}


def _tensors(model: nn.Module) -> dict[str, str]:
    return {
        name: f"{'×'.join(map(str, tensor.shape)) or 'a scalar'} of {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor)
    }


def _count(model: nn.Module) -> str:
    return str(len(list(parameters_of(model))))


def _common(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Masks:
    """Return the masks common to both models; none if only one is cut. Raises `InputError` if they differ."""
    if not one or not other:
        return Masks({})
    for name in [*one, *(name for name in other if name not in one)]:
        if name not in one or name not in other or not _equal(one[name], other[name]):
            raise InputError(
                f"The two models are cut by different masks, of {name} for one: a line between tickets needs "
                "one mask for both."
            )
    return Masks(one)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other.to(one.device)).all())
