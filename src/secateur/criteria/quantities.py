"""Quantities that criteria need and only data can tell, such as gradients.

A quantity is a function of the model, the tensors to score and calibration batches; registering it lets formulas
name it among their parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.criteria.registry import CRITERIA
from secateur.errors import InputError, reason_of
from secateur.modes import evaluating
from secateur.progress import track
from secateur.registry import Registry

Batches: TypeAlias = Iterable[tuple[Any, Tensor | None]]
"""Calibration data: pairs of what the model takes (a tensor, or a dict of keywords) and its labels, int64 [N].

Labels are None where the model computes its own loss, as those of transformers do from `labels` among the keywords.
"""

Measure: TypeAlias = Callable[[nn.Module, Mapping[str, Tensor], Batches], dict[str, Tensor]]
QUANTITIES: Registry[Measure] = Registry("quantity measured on data")


def measured(
    criterion: str, model: nn.Module, tensors: Mapping[str, Tensor], data: Batches | None
) -> dict[str, dict[str, Tensor]]:
    """Measure what the formula of `criterion` needs: quantity → name → tensor; nothing where weights suffice.

    Raises `InputError` where data is needed and there is none.
    """
    needs = [need for need in CRITERIA[criterion].needs if need in QUANTITIES]
    if needs and data is None:
        raise InputError(
            f"The criterion {criterion} needs the {needs[0]} on some data: pass batches of inputs and labels as data=."
        )
    return {need: QUANTITIES[need](model, tensors, () if data is None else data) for need in needs}


def gradient(model: nn.Module, tensors: Mapping[str, Tensor], data: Batches) -> dict[str, Tensor]:
    """Gradient of the mean loss over all samples, in eval mode; name → tensor of the weight's shape.

    The model's own gradients and frozen state are left as they were.
    """
    total = {
        name: torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
        for name, tensor in tensors.items()
    }
    frozen = [tensor for tensor in tensors.values() if not tensor.requires_grad]
    samples = 0
    with evaluating(model), torch.enable_grad():
        for tensor in frozen:
            tensor.requires_grad_(True)
        try:
            for inputs, labels in _tracked(data):
                size = len(next(iter(inputs.values()))) if isinstance(inputs, Mapping) else len(inputs)
                try:
                    outputs = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
                    loss = size * _loss(outputs, labels)
                    grads = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
                except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
                    raise InputError(
                        f"The calibration data gives no gradient ({reason_of(error)}): pass batches of what the "
                        "model takes and labels that fit its outputs."
                    ) from error
                for name, grad in zip(tensors, grads, strict=True):
                    if grad is not None:
                        total[name] += grad
                samples += size
        finally:
            for tensor in frozen:
                tensor.requires_grad_(False)
    if not samples:
        raise InputError("The data holds no batch: pass batches of inputs and labels as data=.")
    return {name: grad / samples for name, grad in total.items()}


def _loss(outputs: Any, labels: Tensor | None) -> Tensor:
    """Mean loss of a batch: cross-entropy with its labels, or what the model computed itself."""
    if labels is None:
        loss: Tensor = outputs.loss
        return loss
    return F.cross_entropy(outputs if isinstance(outputs, Tensor) else outputs.logits, labels)


def _tracked(data: Batches) -> Iterator[tuple[Any, Tensor | None]]:
    """Yield pairs under a progress bar. Raises `InputError` for what is none."""
    batches = list(data)
    for batch in track(batches, "gradients", len(batches)):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise InputError(
                "A batch of calibration data is a pair of inputs and labels: pass (inputs, labels)."
            )
        yield batch[0], batch[1]


QUANTITIES.add("gradient", gradient)
