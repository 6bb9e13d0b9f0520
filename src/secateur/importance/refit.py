"""View of units: their readers, with second moments of inputs, weights, and variance of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria.calibration import Calibration
from secateur.criteria.readers import Reader
from secateur.graph.labels import Vector
from secateur.graph.probe import Probe, TensorPlace
from secateur.importance.observed import coupling_of, remembered
from secateur.importance.parts import VIEWS, Question, ScorePart, ScoreParts
from secateur.importance.products import Product, Products, channels_last, draw, patches
from secateur.linalg.ridge import Squares
from secateur.shrink.plan import named_tensors

ROWS_PER_ENTRY = 64
"""Sampled rows of inputs per entry of a row."""


class ProductMoments(NamedTuple):
    """Moments of one product: `gram`, E[xᵀx], float64 [groups, inputs, inputs], and the variance of its outputs.

    `variance` is that of the residual stream, if the outputs are added to one, summed over all outputs. `scale` is the
    factor of a batch normalisation after the product, float64 [groups, 1, outputs].
    """

    gram: Tensor
    variance: float
    scale: Tensor


@VIEWS.register("readers")
def reader_parts(question: Question) -> ScoreParts:
    """Score units by all their readers, a list of `Reader` → [units].

    Raises `InputError` for NaN or infinite activations.
    """
    products = {(product.weight, product.rows): product for product in Products(coupling_of(question))}
    wanted = {
        group.name: [
            (products[member.name, member.dim], member.unit)
            for member in group.members
            if member.reads and (member.name, member.dim) in products
        ]
        for group in question.groups
    }
    names = {product.weight: product for readers in wanted.values() for product, _ in readers}
    found = remembered(
        question, names, lambda data, missing: _moments(question, data, [names[each] for each in missing])
    )
    weights = named_tensors(question.model)
    parts: ScoreParts = {}
    for group in question.groups:
        readers = [
            reader
            for product, unit in wanted[group.name]
            if product.weight in found
            for reader in _readers(product, unit, group.units, weights[product.weight], found[product.weight])
        ]
        if readers:
            scores = question.criterion.unit(readers, **question.options).cpu()
            parts[group.name] = [ScorePart(scores, torch.ones_like(scores))]
        else:
            parts[group.name] = []
    return parts


def _readers(
    product: Product, unit: Vector, units: int, weight: Tensor, moments: ProductMoments
) -> list[Reader]:
    """Return a product as readers, one for each group of its channels."""
    flat = (weight.detach() if product.rows == 1 else weight.detach().T).flatten(1).double()
    outputs, inputs = flat.shape
    matrices = flat.view(product.groups, outputs // product.groups, inputs).mT * moments.scale
    of = np.repeat(unit, inputs // len(unit))
    return [
        Reader(gram, matrix, moments.variance, of, units)
        for gram, matrix in zip(moments.gram, matrices, strict=True)
    ]


def _moments(question: Question, data: Calibration, products: Sequence[Product]) -> dict[str, ProductMoments]:
    """Return weight name → moments, from one pass over the data; products without a sample are left out."""
    into = {product.into: product for product in products}
    out = {product.out: product for product in products}
    streams = {product.residual for product in products if product.residual is not None}
    probe = Probe(question.model, coupling_of(question).program, [*into, *out, *streams])
    generator = torch.Generator().manual_seed(question.seed)
    tensors = named_tensors(question.model)
    scales = {product.weight: _scale(product, tensors) for product in products}
    sums: dict[str, Squares] = {}
    arrived: dict[str, Tensor] = {}
    stream: dict[TensorPlace, Tensor] = {}

    def seen(place: TensorPlace, tensor: Tensor) -> None:
        if place in streams:
            stream[place] = tensor
        if place in into:
            arrived[into[place].weight] = tensor
        if place not in out:
            return
        product = out[place]
        size = tensors[product.weight].numel() // product.shape[1 - product.rows]
        if not bool(tensor.isfinite().all()):
            raise InputError("The activations on this data hold NaN or infinity: look at the inputs.")
        last, picked = draw(product, tensor, -(-ROWS_PER_ENTRY * size // len(data)), generator)
        x = patches(arrived.pop(product.weight), product, picked)
        y = last[picked].double() * scales[product.weight].flatten()
        if product.residual is not None:
            y += channels_last(product, stream[product.residual])[picked]
        if product.weight not in sums:
            sums[product.weight] = Squares(
                x.shape[-1], y.shape[-1] // product.groups, product.groups, y.device
            )
        sums[product.weight].add(x, y.view(len(y), product.groups, -1).movedim(1, 0))

    with torch.no_grad():
        for inputs, _ in data.tracked("readers"):
            probe.run(inputs, seen)
            stream.clear()
    return {
        name: ProductMoments(
            found.gram / found.count, float(found.moments(centred=True)[2].sum()) / found.count, scales[name]
        )
        for name, found in sums.items()
    }


def _scale(product: Product, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the factor of the normalisation after a product, 1 without one, float64 [groups, 1, outputs]."""
    weight, norm = tensors[product.weight], product.norm
    if norm is None:
        scale = torch.ones(weight.shape[1 - product.rows], dtype=torch.float64, device=weight.device)
    else:
        deviation = (tensors[norm.variance].double() + norm.epsilon).sqrt()
        scale = tensors[norm.weight].detach().double() / deviation
    return scale.view(product.groups, 1, -1)
