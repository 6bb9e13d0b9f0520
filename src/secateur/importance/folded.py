"""Views of channels in a model whose batch normalisations are folded into the products before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from secateur.core.errors import InputError
from secateur.core.modules import named_modules, named_parameters
from secateur.core.registry import Registry
from secateur.criteria.calibration import Calibration
from secateur.criteria.losses import gradients
from secateur.graph.groups import Group, Member
from secateur.graph.labels import Vector
from secateur.graph.program import refs
from secateur.importance.folding import chains, folded, norm_after
from secateur.importance.maps import scored_maps
from secateur.importance.observed import coupling_of, remembered
from secateur.importance.parts import VIEWS, Question, ScorePart, ScoreParts
from secateur.importance.products import Products
from secateur.importance.rows import rows_of
from secateur.importance.sites import Spot, units_along
from secateur.shrink.plan import named_tensors

FOLDED_TENSORS: Registry[Callable[[Question], Mapping[str, Tensor]]] = Registry("tensors of the folded model")
"""Tensors whose slices a formula takes, by the name of its parameter."""


@FOLDED_TENSORS.register("slices")
def folded_weights(question: Question) -> Mapping[str, Tensor]:
    """Return the weights, those before a batch normalisation multiplied by its γ/√(v + ε)."""
    model = question.model
    return folded(dict(named_parameters(model)), named_tensors(model), chains(coupling_of(question)))


@FOLDED_TENSORS.register("changes")
def folded_changes(question: Question) -> Mapping[str, Tensor]:
    """Return w · ∂L/∂w, mean over all samples: the same for folded weights, (s·w) · ∂L/∂(s·w)."""
    parameters = question.parameters()

    def measure(data: Calibration, names: Sequence[str]) -> dict[str, Tensor]:
        totals = {name: torch.zeros_like(parameters[name], dtype=torch.float64) for name in names}
        samples = 0
        for gradient, size in gradients(question.model, parameters, data):
            for name in totals.keys() & gradient.keys():
                totals[name] += size * gradient[name]
            samples += size
        if not samples:
            raise InputError("The data holds no batch: pass batches of inputs and labels as data=.")
        return {name: total / samples for name, total in totals.items()}

    slopes = remembered(question, parameters, measure)
    return {name: parameter.detach() * slopes[name] for name, parameter in parameters.items()}


@VIEWS.register("folded")
def folded_parts(question: Question) -> ScoreParts:
    """Score the slices of each channel in all layers, a list of [channels, weights] → [channels]."""
    with question.as_used() as used:
        return _folded_parts(used)


def _folded_parts(question: Question) -> ScoreParts:
    taken = [FOLDED_TENSORS[need](question) for need in question.criterion.needs]
    layers = _layers(question)
    parts: ScoreParts = {}
    for group in question.groups:
        slices = [list(_slices(group, tensors, layers)) for tensors in taken]
        parts[group.name] = (
            [_alone(question.criterion.unit(*slices, **question.options))] if slices[0] else []
        )
    return parts


@VIEWS.register("folded_map")
def folded_map_parts(question: Question) -> ScoreParts:
    """Score the outputs of the products that make each channel, after a batch normalisation that alone reads them.

    [N, channels, *places] → [N, channels]; mean over all samples. Raises `InputError` for maps with NaN or infinity.
    """
    products = Products(coupling_of(question))
    return scored_maps(question, {group.name: dict(_outputs(products, group)) for group in question.groups})


def _layers(question: Question) -> set[str]:
    """Return the names of the weights that count: of all products but depthwise convolutions."""
    single = {
        f"{path}.weight"
        for path, module in named_modules(question.model)
        if isinstance(module, _ConvNd) and module.groups == module.out_channels > 1
    }
    return {name for name, role in question.roles().items() if role == "weights"} - single


def _slices(group: Group, tensors: Mapping[str, Tensor], layers: set[str]) -> Iterator[Tensor]:
    """Yield the rows of each channel in each layer with one index for each, float64 [channels, weights], CPU."""
    for member in group.members:
        if member.name in layers and (order := _one_each(member, group.units)) is not None:
            yield rows_of(tensors[member.name], member.dim).double().cpu()[torch.from_numpy(order)]


def _one_each(member: Member, units: int) -> Vector | None:
    """Return the index of each unit, int64 [units]; None if a unit has another number of indices than one."""
    inside = np.flatnonzero(member.unit >= 0)
    order = np.full(units, -1)
    order[member.unit[inside]] = inside
    return order if len(inside) == units and bool((order >= 0).all()) else None


def _alone(scores: Tensor) -> ScorePart:
    return ScorePart(scores, torch.ones_like(scores))


def _outputs(products: Products, group: Group) -> Iterator[tuple[Spot, Vector]]:
    """Yield the spots of the outputs of the group's products, and the unit of each index there."""
    sites, program = products.sites, products.program
    for node in sites.met(group, reads=False):
        norm = norm_after(products, node)
        calls = [] if node.call is None else refs(program.calls[node.call].outputs)
        for value in (*calls, *node.outputs) if norm is None else norm.outputs:
            along, place = units_along(products.coupling, group, value), sites.places.out(value)
            if along is not None and place is not None:
                yield Spot(place, along[0]), along[1]
                break
