"""Counts of a model's weights, zeros and dead units.

An entry counts as zero if it is exactly zero or cut by a given mask. Tied parameters count once, under their first
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import type_before_parametrizations

from secateur.core.brief import Brief
from secateur.core.computed import by_carrier
from secateur.core.errors import ModelError
from secateur.core.modules import named_parameters, submodule
from secateur.core.wrapped import unwrapped
from secateur.measure.inputs import masked
from secateur.sparsity.masks import Masks
from secateur.sparsity.targets import role


@dataclass(frozen=True)
class TensorStatistics:
    """Counts of one parameter tensor.

    `kind` is the class of the module that holds it, `role` one of `secateur.sparsity.targets.ROLES`; `pruned` counts
    the entries cut by its mask. `units` are output neurons or channels, dead if all their weights are zero;
    `dead_inputs` counts input neurons or channels whose weights to all outputs are zero. The last three are 0 for
    vectors and scalars.
    """

    name: str
    kind: str
    role: str
    shape: tuple[int, ...]
    parameters: int
    nonzero: int
    pruned: int
    units: int
    dead_units: int
    dead_inputs: int

    @property
    def sparsity(self) -> float:
        """Fraction of the entries that are zero; 0.0 for an empty tensor."""
        return _sparsity(self.nonzero, self.parameters)


@dataclass(frozen=True, repr=False)
class Statistics(Brief):
    """All parameter tensors of a model, in its order, and their totals."""

    tensors: tuple[TensorStatistics, ...]

    @property
    def parameters(self) -> int:
        """Entries of all parameter tensors."""
        return sum(tensor.parameters for tensor in self.tensors)

    @property
    def nonzero(self) -> int:
        """Entries that are not zero."""
        return sum(tensor.nonzero for tensor in self.tensors)

    @property
    def pruned(self) -> int:
        """Entries cut by the masks; 0 without any."""
        return sum(tensor.pruned for tensor in self.tensors)

    @property
    def sparsity(self) -> float:
        """Fraction of all entries that are zero, 0.0 for a model without parameters."""
        return _sparsity(self.nonzero, self.parameters)

    @property
    def weights(self) -> int:
        """Entries of the matrices and kernels, without biases and normalisations."""
        return sum(tensor.parameters for tensor in self.tensors if tensor.role == "weights")

    @property
    def weights_nonzero(self) -> int:
        """Entries of the matrices and kernels that are not zero."""
        return sum(tensor.nonzero for tensor in self.tensors if tensor.role == "weights")

    @property
    def weight_sparsity(self) -> float:
        """Fraction of the entries of all matrices and kernels that are zero, 0.0 for a model without any."""
        return _sparsity(self.weights_nonzero, self.weights)

    @property
    def dead_units(self) -> int:
        """Output units whose weights are all zero."""
        return sum(tensor.dead_units for tensor in self.tensors)

    @property
    def dead_inputs(self) -> int:
        """Input units whose weights to all outputs of their layer are zero."""
        return sum(tensor.dead_inputs for tensor in self.tensors)

    def to_json(self) -> dict[str, Any]:
        """Return totals and tensors as JSON: dictionaries, lists, numbers and strings."""
        rows = [asdict(row) | {"shape": list(row.shape), "sparsity": row.sparsity} for row in self.tensors]
        totals = [
            "parameters",
            "nonzero",
            "pruned",
            "sparsity",
            "weights",
            "weights_nonzero",
            "weight_sparsity",
        ]
        totals += ["dead_units", "dead_inputs"]
        return {name: getattr(self, name) for name in totals} | {"tensors": rows}


@torch.no_grad()
def statistics(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> Statistics:
    """Count the parameters of `model`, the zeros among them, and the dead units.

    Of a tensor that a module computes from parameters (masks of torch.nn.utils.prune, parametrisations) the values it
    works with count, in the row of the parameter of that shape.

    `masks` maps parameter names to boolean tensors of the parameters' shapes, True for kept weights; cut weights
    count as zero. Raises `InputError` if they belong to another model, `ModelError` if a parameter has no values.
    """
    rows = []
    model = unwrapped(model)
    cut = Masks(masks or {}).named_as_in(model)
    with masked(model, masks):
        computed = by_carrier(model)
        for name, parameter in named_parameters(model):
            if parameter.is_meta or nn.parameter.is_lazy(parameter):
                raise ModelError(f"{name} has no values yet: load weights, or run a lazy module once.")
            of = computed.get(name)
            module = submodule(model, name.rpartition(".")[0]) if of is None else of.module
            alive = _by_unit(module, (parameter if of is None else of.value()) != 0)
            mask = cut.get(name)
            rows.append(
                TensorStatistics(
                    name=name,
                    kind=type_before_parametrizations(module).__name__,
                    role=role(module, name.rpartition(".")[2] if of is None else of.leaf, parameter),
                    shape=tuple(parameter.shape),
                    parameters=parameter.numel(),
                    nonzero=int(alive.count_nonzero()),
                    pruned=0 if mask is None else mask.numel() - int(mask.count_nonzero()),
                    units=alive.shape[:2].numel() if alive.ndim > 2 else 0,
                    dead_units=_dead(alive, keep=(0, 1)),
                    dead_inputs=_dead(alive, keep=(0, 2)),
                )
            )
    return Statistics(tuple(rows))


def _by_unit(module: nn.Module, weight: Tensor) -> Tensor:
    """View a weight as [groups, outputs per group, inputs per group, *kernel]; vectors are unchanged.

    Weights other than convolution kernels have one group, with outputs in dimension 0 and inputs in dimension 1.
    """
    if weight.ndim < 2:
        return weight
    if not isinstance(module, _ConvNd) or weight.shape != module.weight.shape:
        return weight.unsqueeze(0)
    grouped = weight.reshape(module.groups, -1, *weight.shape[1:])
    return grouped.transpose(1, 2) if isinstance(module, _ConvTransposeNd) else grouped


def _dead(alive: Tensor, keep: tuple[int, int]) -> int:
    """Count the index pairs of the dimensions `keep` without a True entry of `alive`."""
    if alive.ndim < 3:
        return 0
    lives = alive.movedim(keep, (0, 1)).flatten(2).any(dim=2)
    return lives.numel() - int(lives.count_nonzero())


def _sparsity(nonzero: int, parameters: int) -> float:
    return 1 - nonzero / parameters if parameters else 0.0
