"""Looking at what reads units: the second moments of its inputs, its weights, and how much its outputs vary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateur.criteria.calibration import Calibration
from secateur.graph.labels import Vector
from secateur.graph.probe import Place, Probe
from secateur.importance.observed import coupling_of, remembered
from secateur.importance.parts import VIEWS, Part, Parts, Question
from secateur.importance.products import Product, Products, draw, patches
from secateur.seeds import same_draws
from secateur.shrink.plan import named_tensors

ROWS = 64
"""Rows of inputs looked at for each entry of one."""


class Moments(NamedTuple):
    """Of one product: E[xᵀx], float64 [groups, inputs, inputs], and how much its outputs vary in all, a number."""

    gram: Tensor
    variance: float


@dataclass(frozen=True)
class Reader:
    """A product y = x M that reads units: `gram`, E[xᵀx], [inputs, inputs], and `weight`, M, [inputs, outputs].

    `variance` is that of y summed over all outputs, `unit` which of the `units` each input is of, −1 for one that
    stays. Tensors are float64.
    """

    gram: Tensor
    weight: Tensor
    variance: float
    unit: Vector
    units: int


@VIEWS.register("readers")
def reader_parts(question: Question) -> Parts:
    """Score units by all that reads them, a list of `Reader` → [units]."""
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
    parts: Parts = {}
    for group in question.groups:
        readers = [
            reader
            for product, unit in wanted[group.name]
            if product.weight in found
            for reader in _readers(product, unit, group.units, weights[product.weight], found[product.weight])
        ]
        if readers:
            scores = question.criterion.unit(readers, **question.options).cpu()
            parts[group.name] = [Part(scores, torch.ones_like(scores))]
        else:
            parts[group.name] = []
    return parts


def _readers(product: Product, unit: Vector, units: int, weight: Tensor, moments: Moments) -> list[Reader]:
    """Return a product as readers, one for each group of its channels."""
    flat = (weight.detach() if product.rows == 1 else weight.detach().T).flatten(1).double()
    outputs, inputs = flat.shape
    matrices = flat.view(product.groups, outputs // product.groups, inputs).mT
    of = np.repeat(unit, inputs // len(unit))
    return [
        Reader(gram, matrix, moments.variance, of, units)
        for gram, matrix in zip(moments.gram, matrices, strict=True)
    ]


def _moments(question: Question, data: Calibration, products: Sequence[Product]) -> dict[str, Moments]:
    """Measure in one pass; what no sample comes to is left out."""
    into = {product.into: product for product in products}
    out = {product.out: product for product in products}
    probe = Probe(question.model, coupling_of(question).program, [*into, *out])
    generator = torch.Generator().manual_seed(question.seed)
    weights = named_tensors(question.model)
    sums: dict[str, Sums] = {}
    arrived: dict[str, Tensor] = {}

    def seen(place: Place, tensor: Tensor) -> None:
        if place in into:
            arrived[into[place].weight] = tensor
            return
        product = out[place]
        size = weights[product.weight].numel() // product.shape[1 - product.rows]
        last, picked = draw(product, tensor, -(-ROWS * size // len(data)), generator)
        x, y = patches(arrived.pop(product.weight), product, picked).double(), last[picked].double()
        sums[product.weight] = sums.get(product.weight, Sums()).plus(x, y)

    with torch.no_grad(), same_draws():
        for inputs, _ in data.tracked("readers"):
            probe.run(inputs, seen)
    return {name: found.moments() for name, found in sums.items()}


class Sums(NamedTuple):
    """Sums over rows of inputs and outputs."""

    rows: int = 0
    gram: Tensor | float = 0.0
    output: Tensor | float = 0.0
    energy: float = 0.0

    def plus(self, x: Tensor, y: Tensor) -> Sums:
        """Add inputs [groups, rows, inputs] and outputs [rows, outputs]."""
        energy = self.energy + float(y.square().sum())
        return Sums(self.rows + len(y), self.gram + x.mT @ x, self.output + y.sum(0), energy)

    def moments(self) -> Moments:
        """Return what they come to."""
        assert isinstance(self.gram, Tensor)
        assert isinstance(self.output, Tensor)
        mean = self.output / self.rows
        return Moments(self.gram / self.rows, self.energy / self.rows - float(mean.square().sum()))
