"""Norms and masks of units: channels, heads and features with all their weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.core.errors import ModelError
from secateur.core.modules import named_parameters
from secateur.graph.analyze import analyze
from secateur.graph.groups import Group
from secateur.graph.naming import named, touched
from secateur.methods.base import MethodJob
from secateur.sparsity.masks import Masks
from secateur.sparsity.targets import DTYPES


class Units:
    """The prunable groups of a model, and the parameters with weights of their units."""

    def __init__(self, job: MethodJob) -> None:
        """Trace the model. Raises `ModelError` if it has no prunable unit, `InputError` without example inputs."""
        self.parameters = {n: p for n, p in named_parameters(job.model) if p.dtype in DTYPES}
        groups = analyze(job.model, job.inputs())
        kept = [each.name for each in touched(groups, job.keep)]
        chosen = named(groups, job.layers) if job.layers else groups.free
        self.groups = [each for each in chosen if each.name not in kept]
        if not self.groups:
            raise ModelError(
                f"{type(job.model).__name__} has no channels, heads or features that may go: "
                "see secateur inspect --groups."
            )
        self._members = {
            group.name: [
                (
                    self.parameters[member.name],
                    member.name,
                    member.dim,
                    _on(self.parameters[member.name], member.unit),
                )
                for member in group.members
                if member.name in self.parameters
            ]
            for group in self.groups
        }
        self.sizes = {group.name: self._summed(group, torch.ones_like) for group in self.groups}
        """Group → [units], the number of weights of each unit."""

    def squares(self) -> dict[str, Tensor]:
        """Return Σ θ² over all weights of each unit, group → [units], differentiable."""
        return {group.name: self._summed(group, torch.square) for group in self.groups}

    def masks(self, kept: Mapping[str, Tensor]) -> Masks:
        """Return the masks that cut every weight of the units not `kept`, group → bool [units]."""
        masks: dict[str, Tensor] = {}
        for group in self.groups:
            for parameter, name, dim, unit in self._members[group.name]:
                alive = kept[group.name].to(unit.device)[unit.clamp(min=0)] | (unit < 0)
                shape = [-1 if at == dim else 1 for at in range(parameter.ndim)]
                whole = masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
                masks[name] = whole & alive.reshape(shape)
        return Masks(masks)

    def _summed(self, group: Group, function: object) -> Tensor:
        """Sum a function of the weights over each unit."""
        assert callable(function)
        members = self._members[group.name]
        total = members[0][0].new_zeros(group.units)
        for parameter, _, dim, unit in members:
            others = [at for at in range(parameter.ndim) if at != dim]
            values = function(parameter)
            profile = values.sum(others) if others else values
            inside = unit >= 0
            total = total.index_add(0, unit[inside], profile[inside].to(total))
        return total


def _on(parameter: nn.Parameter, unit: object) -> Tensor:
    return torch.as_tensor(unit, dtype=torch.int64, device=parameter.device)
