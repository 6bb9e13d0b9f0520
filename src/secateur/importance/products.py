"""The products of activations and weights in a traced model, with the normalisation and residual sum after them.

A product is written as y = x M + b for rows x: the rows of a linear layer's input, or the input patches of a
convolution. A batch normalisation that alone reads y belongs to the product, since it only shifts and scales.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from secateur.graph.coupling import Coupling, argument
from secateur.graph.operators import Effect, operator_of
from secateur.graph.probe import TensorPlace
from secateur.graph.program import Node, Ref, refs
from secateur.importance.sites import Sites
from secateur.measure.products import Convolution, MatrixProduct


@dataclass(frozen=True)
class Norm:
    """A batch normalisation with running statistics: names of its tensors, and the place of its input."""

    weight: str
    bias: str
    mean: str
    variance: str
    epsilon: float
    into: TensorPlace | None
    call: int


@dataclass(frozen=True)
class Product:
    """One product: the places of its input and output, the names of its tensors, and the normalisation after it.

    `rows` is the dimension of the weight that the product sums over. `residual` is the place of an earlier value that
    is added to the output.
    """

    node: Node
    weight: str
    shape: tuple[int, ...]
    rows: int
    bias: str | None
    into: TensorPlace
    out: TensorPlace
    norm: Norm | None
    residual: TensorPlace | None

    @property
    def convolution(self) -> bool:
        """Whether the weight is a kernel."""
        return isinstance(operator_of(self.node).product, Convolution)

    @property
    def kernel(self) -> tuple[int, ...]:
        """The sizes of the kernel; none for a linear layer."""
        return self.shape[2:] if self.convolution else ()

    @property
    def groups(self) -> int:
        """Number of channel groups of a convolution; 1 for a linear layer."""
        return int(argument(self.node, "groups")) if self.convolution else 1


class Products:
    """The products of a traced model."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling, self.program = coupling, coupling.program
        self.sites = Sites(coupling)
        self.made_at = {output: at for at, node in enumerate(self.program.nodes) for output in node.outputs}
        self.work = Counter(node.call for node in self.program.evaluation if operator_of(node).product)

    def __iter__(self) -> Iterator[Product]:
        """Yield the products with observable input and output whose weight is a parameter, in order of execution."""
        for node in self.program.evaluation:
            if (found := self._product(node)) is not None:
                yield found

    def alone(self) -> Iterator[Product]:
        """Yield the products whose weight nothing else in the pass in eval mode reads."""
        here = {id(node) for node in self.program.evaluation}
        values = {value.name: value.id for value in self.program.values if value.kind == "parameter"}
        for product in self:
            readers = [node for node in self.sites.users[values[product.weight]] if id(node) in here]
            if len(readers) == 1:
                yield product

    def _product(self, node: Node) -> Product | None:
        operands = self.operands(node)
        if operands is None or node.call is None or self.work[node.call] != 1:
            return None
        inputs, weight, rows = operands
        call, name = self.program.calls[node.call], self.parameter(weight)
        given = list(refs((call.args, call.kwargs)))
        source, outputs = self._seen_of(inputs, given), list(refs(call.outputs))
        if name is None or source is None or len(outputs) != 1:
            return None
        into, out = self.sites.places.into(node.call, source), self.sites.places.out(outputs[0])
        if into is None or out is None:
            return None
        shape = self.program.values[weight].shape
        flat = [self.parameter(each) for each in given if len(self.program.values[each].shape) == 1]
        bias = next((found for found in flat if found is not None), None)
        norm, residual = self._next(outputs[0])
        return Product(node, name, shape, rows, bias, into, out, norm, residual)

    def operands(self, node: Node) -> tuple[int, int, int] | None:
        """Return input and weight of a product, as values, and the weight's dimension that is summed over."""
        product, given = operator_of(node).product, partial(argument, node)
        if isinstance(product, Convolution) and not (product.shifted or product.is_transposed(given)):
            return given(product.left).id, given(product.right).id, 1
        if not isinstance(product, MatrixProduct) or not product.of_rows:
            return None
        value, moved = self._origin(given(product.right).id)
        rows = product.letters[1].index(product.summed)
        return None if value is None else (given(product.left).id, value, 1 - rows if moved else rows)

    def _origin(self, value: int) -> tuple[int | None, bool]:
        """Return the value of a weight before transpositions, None if computed, and whether it was transposed."""
        moved = False
        while self.program.values[value].kind == "result":
            node = self.program.nodes[self.made_at[value]]
            if (
                operator_of(node).effect is not Effect.TRANSPOSED
                or len(self.program.values[value].shape) != 2
            ):
                return None, False
            source, dims = node.args[0].id, self.coupling.dims
            swapped = dims[value][0] is dims[source][1]  # not by a permutation that changes nothing
            value, moved = source, moved != swapped
        return value, moved

    def parameter(self, value: int | None) -> str | None:
        """Return the name of the parameter a value is; None for anything else."""
        if value is None or self.program.values[value].kind != "parameter":
            return None
        return self.program.values[value].name

    def _seen_of(self, value: int, given: Collection[int]) -> int | None:
        """Return the argument in `given` that an operator's input `value` is, or was reshaped from."""
        while value not in given:
            at = self.made_at.get(value)
            if at is None or not operator_of(self.program.nodes[at]).carries:
                return None
            value = self.program.nodes[at].args[0].id
        return value

    def _next(self, value: int) -> tuple[Norm | None, TensorPlace | None]:
        """Return the batch normalisation that alone reads a value, and the place of the residual added after it."""
        norm = None
        at = self.made_at[value]
        while len(self.sites.users[value]) == 1 and value not in self.program.outputs:
            (node,) = self.sites.users[value]
            if (norm is None and (norm := self.norm(node)) is not None) or operator_of(node).carries:
                value = node.outputs[0]
                continue
            if (
                operator_of(node).adds
                and len(node.args) == 2
                and all(isinstance(a, Ref) for a in node.args)
                and not node.kwargs  # alpha: a multiple is added
            ):
                (other,) = [ref.id for ref in node.args if ref.id != value] or [value]
                shapes = self.program.values[other].shape, self.program.values[value].shape
                if other != value and self.made_at.get(other, at) < at and shapes[0] == shapes[1]:
                    return norm, self.sites.places.out(other)
            break
        return norm, None

    def norm(self, node: Node) -> Norm | None:
        """Return a node as a batch normalisation in eval mode; None for anything else."""
        norm = operator_of(node).norm
        if norm is None or norm.over != "channels" or node.call is None or argument(node, "training", False):
            return None
        given = [argument(node, name, None) for name in norm.tensors]
        names = [self.program.values[a.id].name if isinstance(a, Ref) else "" for a in given]
        if not all(names):
            return None
        weight, bias, mean, variance = names
        place = None
        if node.call < len(self.sites.places.calls):
            place = self.sites.places.into(node.call, node.args[0].id)
        return Norm(weight, bias, mean, variance, float(argument(node, norm.epsilon)), place, node.call)


def draw(
    product: Product, output: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Draw `count` rows of a product's output without replacement, or all if there are fewer.

    Returns the output with its channels last, and the indices of the drawn rows in each of the other dimensions.
    """
    last = channels_last(product, output)
    total = math.prod(last.shape[:-1])
    drawn = torch.randperm(total, generator=generator)[:count] if count < total else torch.arange(total)
    return last, torch.unravel_index(drawn.to(output.device), last.shape[:-1])


def channels_last(product: Product, output: Tensor) -> Tensor:
    """Return a view of a product's output with its channels last."""
    return output.movedim(1, -1) if product.convolution else output


def patches(inputs: Tensor, product: Product, picked: tuple[Tensor, ...]) -> Tensor:
    """Return the input rows of the picked outputs of a product, [groups, outputs, inputs · kernel].

    `inputs` is [N, C, *size] for a convolution, otherwise […, C]; `picked` holds, for each dimension of the output but
    the channels, the index of each picked output.
    """
    if not product.convolution:
        return inputs[picked].unsqueeze(0)
    kernel = product.kernel
    stride, padding, dilation = (
        _each(argument(product.node, name), len(kernel)) for name in ("stride", "padding", "dilation")
    )
    edges = [edge for size in reversed(padding) for edge in (size, size)]
    inputs = nn.functional.pad(inputs, edges) if any(edges) else inputs
    sample, *at = picked
    places = [sample.view(-1, *(1 for _ in kernel))]
    for dim, size in enumerate(kernel):
        reach = at[dim][:, None] * stride[dim] + torch.arange(size, device=inputs.device) * dilation[dim]
        places.append(reach.view(-1, *(size if other == dim else 1 for other in range(len(kernel)))))
    rows = inputs.movedim(1, -1)[tuple(places)]
    parts = rows.view(*rows.shape[:-1], product.groups, -1)
    return parts.movedim((-2, -1), (0, 2)).flatten(2)


def _each(size: list[int], dims: int) -> list[int]:
    return list(size) if len(size) == dims else list(size) * dims
