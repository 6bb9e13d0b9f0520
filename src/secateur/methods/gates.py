"""Gates: factors on weights during training.

A gate is a parametrisation (`torch.nn.utils.parametrize`) of one tensor: the module's weight becomes θ ∘ factors, and
θ stays the optimiser's parameter. `Gates` installs gates on the weights of a model and removes them again, leaving
the same parameters in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.core.errors import ModelError
from secateur.core.modules import named_modules, named_parameters


class Gate(nn.Module):
    """Multiplies a weight by `factors(weight)`."""

    def factors(self, weight: Tensor) -> Tensor:
        """Return the factor of each weight, of the weight's shape."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        """Return the gated weight, of the weight's dtype."""
        return weight * self.factors(weight).to(weight.dtype)


class Gates:
    """Gates of a model: parameter name → gate. All uses of a tied parameter share one gate."""

    def __init__(
        self, model: nn.Module, targets: Mapping[str, nn.Parameter], gates: Mapping[str, Gate]
    ) -> None:
        """Find the targets. Raises `ModelError` for recurrent layers, which keep other references to their weights."""
        of = {id(parameter): gates[name] for name, parameter in targets.items()}
        uses = [
            (path, module, leaf, of[id(parameter)])
            for path, module in named_modules(model)
            for leaf, parameter in named_parameters(module, recurse=False)
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
        """Register each gate on its target."""
        for module, leaf, gate, _ in self._uses:
            parametrize.register_parametrization(module, leaf, gate, unsafe=True)

    def remove(self) -> None:
        """Restore every module's own parameters, at their current values and in their old order."""
        for module, leaf, _, _ in self._uses:
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
        for module, _, _, order in self._uses:
            module._parameters = {name: module._parameters[name] for name in order}


def rank(values: Tensor) -> Tensor:
    """Return each value's rank divided by their number, float64 in (0, 1], of the same shape; ties are split."""
    order = values.flatten().argsort(stable=True)
    places = torch.arange(1, order.numel() + 1, dtype=torch.float64, device=values.device)
    return torch.empty_like(places).scatter_(0, order, places / max(1, order.numel())).reshape(values.shape)
