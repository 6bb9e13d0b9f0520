"""How much flows through a network, asked of its weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from secateur.core.errors import ModelError, reason_of
from secateur.criteria.normalisation import normalising
from secateur.criteria.registry import quantity


@quantity("flow_gradient", "the flow through the network")
def flow_gradient(
    model: nn.Module, tensors: Mapping[str, Tensor], example_inputs: Any, *, batch_norm: str = "eval"
) -> dict[str, Tensor]:
    """Gradient of R, the sum of the outputs for inputs of ones, where every parameter has its absolute value.

    Name → float64 tensor of the weight's shape. All of it is computed in float64, as R is a product over the
    layers and overflows float32 in deep networks. Of `example_inputs` only the shapes count; tensors of whole
    numbers, such as tokens, are taken as they are. `batch_norm` is "eval", "train" or "removed".

    Cost: a pass there and back on one input of ones, in each round.
    """
    state = {
        name: tensor.detach().double() if tensor.is_floating_point() else tensor
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
    }
    for name, parameter in model.named_parameters():
        state[name] = state[name].abs().requires_grad_(parameter.is_floating_point())
    leaves = [state[name] for name in tensors]
    args, kwargs = _arguments(tree_map(_ones, example_inputs))
    with normalising(model, batch_norm), torch.enable_grad():
        try:
            flow = _sum(functional_call(model, state, args, kwargs))
            grads = torch.autograd.grad(flow, leaves, allow_unused=True)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ModelError(
                f"The model can't run in float64 on ones of the example inputs' shapes ({reason_of(error)}): "
                "give inputs of the shape it takes, or choose another criterion."
            ) from error
    return {
        name: torch.zeros_like(leaf) if grad is None else grad
        for name, leaf, grad in zip(tensors, leaves, grads, strict=True)
    }


def _ones(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return torch.ones_like(value, dtype=torch.float64) if floating else value


def _sum(outputs: Any) -> Tensor:
    """Sum all that comes out: logits where there are such, or else every tensor."""
    found = [
        each
        for each in tree_leaves(getattr(outputs, "logits", outputs))
        if isinstance(each, Tensor) and each.is_floating_point()
    ]
    return torch.stack([each.sum() for each in found]).sum()


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)), {}
