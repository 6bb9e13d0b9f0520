"""The synaptic flow of a network and its gradient, from the weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from secateur.core.errors import ModelError, reason_of
from secateur.core.modules import named_buffers, named_parameters, tensors_replaced, torch_method
from secateur.criteria.normalisation import normalising
from secateur.criteria.registry import quantity


@quantity("flow_gradient", "the flow through the network")
def flow_gradient(
    model: nn.Module, tensors: Mapping[str, Tensor], example_inputs: Any, *, batch_norm: str = "eval"
) -> dict[str, Tensor]:
    """Gradient of R, the sum of the outputs for inputs of ones, with the absolute value of every parameter.

    So are the values of the state's other tensors, such as running means, as in the authors' code.

    Name → float64 tensor of the weight's shape. R is a product over the layers, which overflows float32 in deep
    networks. `example_inputs` give the shapes of the ones; integer tensors, such as tokens, are used unchanged.
    `batch_norm` is "eval" (default), "train" or "removed". Raises `ModelError` if the model does not run on ones.

    Cost: a forward and a backward pass on one input of ones, in each round.
    """
    state = {
        name: tensor.detach().double() if tensor.is_floating_point() else tensor
        for name, tensor in chain(named_parameters(model), named_buffers(model))
    }
    for name in torch_method(model, "state_dict").keys() & state.keys():
        state[name] = state[name].abs() if state[name].is_floating_point() else state[name]
    for name, parameter in named_parameters(model):
        state[name] = state[name].abs().requires_grad_(parameter.is_floating_point())
    leaves = [state[name] for name in tensors]
    args, kwargs = _arguments(tree_map(_ones, example_inputs))
    with normalising(model, batch_norm), torch.enable_grad():
        try:
            with tensors_replaced(model, state):
                flow = _sum(model(*args, **kwargs))
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
    """Return the sum of the logits, or of all floating-point outputs of a model without logits."""
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
