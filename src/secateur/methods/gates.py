"""Gates: what multiplies a weight while a model trains.

A gate is a parametrisation (`torch.nn.utils.parametrize`) of one tensor: the module's weight becomes θ ∘ factors, θ
itself stays the parameter the optimiser knows. `Gates` puts gates before the weights of a model and takes them away
again, leaving the same parameters in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.core.errors import ModelError


class Gate(nn.Module):
    """Multiplies a weight by `factors(weight)`."""

    def factors(self, weight: Tensor) -> Tensor:
        """Return what each weight is multiplied by, of the weight's shape."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight as the layer sees it."""
        return weight * self.factors(weight).to(weight.dtype)


class Gates:
    """Gates at work in a model: parameter name → gate. A tied parameter has one gate wherever it is used."""

    def __init__(
        self, model: nn.Module, targets: Mapping[str, nn.Parameter], gates: Mapping[str, Gate]
    ) -> None:
        """Find the targets. Raises `ModelError` for recurrent layers, which hold their weights elsewhere too."""
        of = {id(parameter): gates[name] for name, parameter in targets.items()}
        uses = [
            (path, module, leaf, of[id(parameter)])
            for path, module in model.named_modules()
            for leaf, parameter in module.named_parameters(recurse=False)
            if id(parameter) in of
        ]
        for path, module, _, _ in uses:
            if isinstance(module, nn.RNNBase):
                raise ModelError(
                    f"{path or 'The model'} is a {type(module).__name__}, whose weights can't be computed from "
                    "others: leave it alone with keep, or take a method without scores."
                )
        self._uses = [(module, leaf, gate, list(module._parameters)) for _, module, leaf, gate in uses]

    def install(self) -> None:
        """Put each gate before its target."""
        for module, leaf, gate, _ in self._uses:
            parametrize.register_parametrization(module, leaf, gate, unsafe=True)

    def remove(self) -> None:
        """Give every module its own parameter back, as it is, in its old place."""
        for module, leaf, _, _ in self._uses:
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
        for module, _, _, order in self._uses:
            module._parameters = {name: module._parameters[name] for name in order}


def rank(values: Tensor) -> Tensor:
    """Return each value's place among all, as a number in (0, 1]: different for every entry, float64."""
    order = values.flatten().argsort(stable=True)
    places = torch.arange(1, order.numel() + 1, dtype=torch.float64, device=values.device)
    return torch.empty_like(places).scatter_(0, order, places / max(1, order.numel())).reshape(values.shape)
