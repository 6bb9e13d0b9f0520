"""Products followed by a batch normalisation as their only reader: one linear map in eval mode.

y = γ (w·x + b − μ) / √(v + ε) + β is the map with the weights s·w and the shift β + s (b − μ), where s = γ/√(v + ε).
An encoder mixes these folded weights and shifts. The result is split into a product and a normalisation again, so
that the model keeps its layers and can be trained further.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from secateur.graph.coupling import Coupling, argument
from secateur.graph.operators import operator_of
from secateur.graph.program import Node, Ref
from secateur.importance.products import Products
from secateur.measure.products import Convolution


@dataclass(frozen=True)
class Chain:
    """Names of the tensors of a product and its normalisation; `dim` is the output dimension of the weight.

    `norm` are γ, β, μ and v.
    """

    weight: str
    dim: int
    bias: str | None
    norm: tuple[str, str, str, str]
    epsilon: float

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return (self.weight, *((self.bias,) if self.bias else ()), *self.norm)


def chains(coupling: Coupling) -> dict[str, Chain]:
    """Return the chains of a model by the names of their weights, without those that share a tensor."""
    products = Products(coupling)
    of: dict[int, Chain] = {}
    for node in coupling.program.nodes:
        if (made := _made(products, node)) is not None and (reader := _reader(products, node)) is not None:
            chain = _chain(products, reader, *made)
            if chain is not None:
                of[node.outputs[0]] = of[reader.outputs[0]] = chain
    uses = {
        name: {of.get(node.outputs[0]) for node in nodes} for name, nodes in products.sites.products.items()
    }
    return {
        chain.weight: chain for chain in of.values() if all(uses.get(name) == {chain} for name in chain.names)
    }


def _made(products: Products, node: Node) -> tuple[str, int, str | None] | None:
    """Return weight, output dimension and bias of a product; None for other nodes and computed weights or biases."""
    product, argument_of = operator_of(node).product, partial(argument, node)
    if product is None:
        return None
    if isinstance(product, Convolution) and product.is_transposed(argument_of):
        value, dim = argument_of(product.right).id, 1
        if argument_of("groups") != 1:
            return None
    elif (operands := products.operands(node)) is not None:
        value, dim = operands[1], 1 - operands[2]
    else:
        return None
    given = None if product.addend is None else argument_of(product.addend)
    bias = products.parameter(given.id) if isinstance(given, Ref) else None
    weight = products.parameter(value)
    return None if weight is None or (bias is None) != (given is None) else (weight, dim, bias)


def _reader(products: Products, node: Node) -> Node | None:
    """Return the normalisation that alone reads the output of a product, or None."""
    value = node.outputs[0]
    while len(products.sites.users[value]) == 1 and value not in products.program.outputs:
        (user,) = products.sites.users[value]
        if products.norm(user) is not None:
            return user if user.args[0].id == value else None
        if not operator_of(user).carries:
            return None
        value = user.outputs[0]
    return None


def _chain(products: Products, reader: Node, weight: str, dim: int, bias: str | None) -> Chain | None:
    norm = products.norm(reader)
    assert norm is not None
    tensors, values = products.program.tensors, products.program.values
    names = (norm.weight, norm.bias, norm.mean, norm.variance)
    known = [name for name in (weight, *names) if name in tensors]
    if len(known) < 5 or values[tensors[weight]].shape[dim] != values[tensors[norm.weight]].shape[0]:
        return None
    return Chain(weight, dim, bias, names, norm.epsilon)


def folded(
    parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], chains: Mapping[str, Chain]
) -> dict[str, Tensor]:
    """Return the parameters of a model with every chain folded into its weight and β, without its γ and bias.

    `tensors` are parameters and buffers, by name.
    """
    result = {name: parameter.detach() for name, parameter in parameters.items()}
    for chain in chains.values():
        scale, shift, mean, variance = (tensors[name].detach() for name in chain.norm)
        s = scale / (variance + chain.epsilon).sqrt()
        weight = result[chain.weight]
        result[chain.weight] = weight * s.view([-1 if at == chain.dim else 1 for at in range(weight.ndim)])
        bias = result.pop(chain.bias) if chain.bias else 0.0
        result[chain.norm[1]] = shift + s * (bias - mean)
        del result[chain.norm[0]]
    return result


@dataclass(frozen=True)
class BatchNormed:
    """The tensors of a chain by units, float64: weight [n, k, …], all others [n, k]."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor
    epsilon: float

    def encoded(self, encoder: Tensor, kept: Tensor) -> BatchNormed:
        """Return the chain whose output is `encoder`, [m, n], times that of this one, in eval mode.

        The free parameters are set for training: v to the mean of the old ones, and γ², the output variance, to its
        value for uncorrelated inputs, which is proportional to the squared norm of the folded weights. γ has the sign
        of the unit in `kept`, int64 [m].
        """
        mean = encoder / encoder.sum(1, keepdim=True)
        s = self.scale / (self.variance + self.epsilon).sqrt()
        weight = self.weight * _beside(s, self.weight)
        new = torch.tensordot(encoder, weight, dims=1)

        variance = mean @ self.variance
        power = mean @ self.scale.square()
        energy, energies = new.flatten(2).square().sum(2), mean @ weight.flatten(2).square().sum(2)
        gain = power * (energy / energies.where(energies > 0, 1.0)).clamp(min=LEAST_VARIANCE)
        scale = torch.where(self.scale[kept.to(s.device)] < 0, -1.0, 1.0) * gain.sqrt()
        t = scale / (variance + self.epsilon).sqrt()

        silent = t == 0  # all the units are constant
        t = t.where(~silent, 1.0)

        def unfolded(folded: Tensor, plain: Tensor) -> Tensor:
            return torch.where(_beside(silent, folded), plain, folded / _beside(t, folded))

        return BatchNormed(
            unfolded(new, torch.tensordot(mean, self.weight, dims=1)),
            None if self.bias is None else unfolded(encoder @ (s * self.bias), mean @ self.bias),
            scale,
            encoder @ self.shift,
            unfolded(encoder @ (s * self.mean), mean @ self.mean),
            variance,
            self.epsilon,
        )


LEAST_VARIANCE = 1e-6
"""Least fraction of the variance left by weights that cancel: with γ = 0 no gradient would flow."""


def _beside(values: Tensor, tensor: Tensor) -> Tensor:
    """Return values, [n, k], as [n, k, 1, …] with the number of dimensions of a tensor."""
    return values.reshape(*values.shape, *(1 for _ in range(tensor.ndim - values.ndim)))
