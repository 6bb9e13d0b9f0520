"""Measured quantities of proxies alone: gradients by outputs of layers and by inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, ModelError, reason_of
from secateur.core.modules import modules_of
from secateur.criteria import Calibration, CalibrationBatches, quantity
from secateur.criteria.losses import Grads, derivatives, differentiable
from secateur.criteria.normalisation import normalising


@quantity("unit_effect", "the effect of single channels on the loss")
def unit_effect(
    model: nn.Module, tensors: Mapping[str, Tensor], data: CalibrationBatches, *, batch_norm: str = "train"
) -> dict[str, Tensor]:
    """First-order change of each sample's own loss if a channel were scaled, Σ over positions of a · ∂L/∂a.

    a is the output of a layer with a weight, before normalisation and activation, as in the authors' code. Returns
    name of the weight → [samples, channels]. Raises `ModelError` if no layer with a weight has a tensor output.

    Cost: a forward and a backward pass per batch.
    """
    rows: dict[str, list[Tensor]] = {}
    with differentiable(model, tensors, batch_norm), _outputs(model, tensors) as outputs:

        def effects(loss: Tensor) -> Grads:
            values = [(name, module, value) for name, module, value in outputs if value.requires_grad]
            leaves = [value for *_, value in values]
            grads = torch.autograd.grad(loss, leaves, allow_unused=True) if leaves else ()
            found: dict[str, Tensor] = {}
            for (name, module, value), grad in zip(values, grads, strict=True):
                effect = _by_channel(module, value * (0 if grad is None else grad))
                found[name] = found[name] + effect if name in found else effect
            outputs.clear()
            return [found.get(name) for name in tensors]

        for found, _ in derivatives(model, tensors, data, effects, "effects"):
            for name, effect in found.items():
                rows.setdefault(name, []).append(effect)
    if not rows:
        raise ModelError(
            f"No layer of {type(model).__name__} has a weight of its own and gives out a tensor: choose another proxy."
        )
    return {name: torch.cat(effects) for name, effects in rows.items()}


@quantity("input_gradient", "the gradient by the inputs")
def input_gradient(
    model: nn.Module, data: CalibrationBatches, *, batch_norm: str = "train"
) -> dict[str, Tensor]:
    """Gradient of the sum of all outputs by the inputs: "inputs" → [samples, numbers of an input].

    Raises `InputError` for inputs that are no floating-point tensor or that the model can't take.

    Cost: a forward and a backward pass per batch.
    """
    rows = []
    with normalising(model, batch_norm), torch.enable_grad():
        for inputs, _ in Calibration.of(data).tracked("gradients by inputs"):
            if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
                raise InputError("There is no gradient by these inputs: give real numbers, such as images.")
            leaf = inputs.detach().requires_grad_(True)
            try:
                outputs = model(leaf)
                total = getattr(outputs, "logits", outputs).sum()
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise InputError(
                    f"The model does not run on the data ({reason_of(error)}): give inputs of the shape it takes."
                ) from error
            (grad,) = torch.autograd.grad(total, [leaf], allow_unused=True)
            rows.append((torch.zeros_like(leaf) if grad is None else grad).flatten(1))
    return {"inputs": torch.cat(rows)}


@contextmanager
def _outputs(
    model: nn.Module, tensors: Mapping[str, Tensor]
) -> Iterator[list[tuple[str, nn.Module, Tensor]]]:
    """Collect (weight name, module, output) of each call of a module with one of the weights within the block."""
    names = {id(tensor): name for name, tensor in tensors.items()}
    found: list[tuple[str, nn.Module, Tensor]] = []

    def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found.append((name, module, output))

    with ExitStack() as stack:
        for module in modules_of(model):
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and id(weight) in names:
                handle = module.register_forward_hook(partial(keep, names[id(weight)]))
                stack.callback(handle.remove)
        yield found


def _by_channel(module: nn.Module, values: Tensor) -> Tensor:
    """Sum over all but samples and channels (last dimension of a linear layer, else second): [samples, channels]."""
    channels_first = values.movedim(-1, 1) if isinstance(module, nn.Linear) else values
    return channels_first.flatten(2).sum(2) if channels_first.ndim > 2 else channels_first
