"""Products followed by a batch normalisation as their only reader: one linear map in eval mode.

y = γ (w·x + b − μ) / √(v + ε) + β is the map with the weights s·w and the shift β + s (b − μ), where s = γ/√(v + ε).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

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
        if (made := _made(products, node)) is not None and (reader := norm_after(products, node)) is not None:
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


def norm_after(products: Products, node: Node) -> Node | None:
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
