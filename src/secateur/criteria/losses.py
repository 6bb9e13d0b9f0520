"""Derivatives of the loss on calibration data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from secateur.core.contexts import unfused, widened
from secateur.core.errors import InputError, reason_of
from secateur.core.modules import modules_of, named_parameters
from secateur.core.options import check_least
from secateur.core.seeds import seed_of
from secateur.criteria.calibration import Calibration
from secateur.criteria.normalisation import normalising
from secateur.criteria.quantities import CalibrationBatches
from secateur.criteria.registry import quantity
from secateur.measure.inputs import batch_size

Grads = Sequence[Tensor | None]


@quantity("gradient", "the gradient")
def gradient(
    model: nn.Module, tensors: Mapping[str, Tensor], data: CalibrationBatches, *, batch_norm: str = "eval"
) -> dict[str, Tensor]:
    """Gradient of the mean loss over all samples; name → tensor of the weight's shape, float32 at least.

    `batch_norm` is "eval" (default: running statistics), "train" (those of each batch) or "removed". With "train" it is
    computed in float64, where the model's code can: statistics of a batch in a sparse network make float32's rounding
    decide. The model's own gradients, frozen state and statistics do not change. Raises `InputError` for data without
    a finite loss.

    Cost: a forward and a backward pass for each batch.
    """
    if batch_norm == "train":
        batches = [(tree_map(_wide, inputs), labels) for inputs, labels in Calibration.of(data)]
        with suppress(InputError), widened(model):
            return _gradient(model, tensors, batches, batch_norm)
    return _gradient(model, tensors, data, batch_norm)


def _gradient(
    model: nn.Module, tensors: Mapping[str, Tensor], data: CalibrationBatches, batch_norm: str
) -> dict[str, Tensor]:
    with differentiable(model, tensors, batch_norm):
        return _mean(model, tensors, data, lambda loss: _grad(loss, tensors), "gradients")


def _wide(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


@quantity("hessian_gradient", "the loss's Hessian times its gradient")
def hessian_gradient(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    data: CalibrationBatches,
    seed: int,
    *,
    batch_norm: str = "train",
    temperature: float = 200.0,
    parts: int = 2,
    redraw: bool = False,
) -> dict[str, Tensor]:
    """Product H g of the loss's Hessian and gradient; name → tensor of the weight's shape, float32 at least.

    The loss is the mean over all samples of the cross-entropy of logits / `temperature` (default 200). Each batch is
    run in `parts` (default 2) equal parts, each with its own statistics if `batch_norm` is "train" (default). With
    `redraw`, H and g are computed at the redrawn linear weights of `scored_weight`. Raises `InputError` for `parts`
    below 1 or above the number of samples, and a `temperature` not above 0.

    Cost: two forward and three backward passes for each batch.
    """
    check_least("option parts", parts, 1)
    if not 0 < temperature < math.inf:
        raise InputError(f"The option temperature is {temperature!r}: give a number above 0, such as 200.")
    with (
        _lent(model, _redrawn(model, seed) if redraw else {}),
        differentiable(model, tensors, batch_norm),
        _twice_differentiable(model),
    ):
        mean = partial(_mean, model, tensors, data, temperature=temperature, parts=parts)
        g = mean(lambda loss: _grad(loss, tensors), "gradients")

        def product(loss: Tensor) -> Grads:
            grads = _grad(loss, tensors, create_graph=True)
            pairs = [(each, g[name]) for name, each in zip(tensors, grads, strict=True) if each is not None]
            inner = sum(((each.to(of.dtype) * of).sum() for each, of in pairs), torch.zeros(()))
            return _grad(inner, tensors)

        return mean(product, "Hessians")


@quantity("squared_gradient", "the squared gradients of the samples")
def squared_gradient(
    model: nn.Module, tensors: Mapping[str, Tensor], data: CalibrationBatches, *, batch_norm: str = "eval"
) -> dict[str, Tensor]:
    """Mean of the squared gradients of single samples: the diagonal of the empirical Fisher matrix.

    Name → tensor of the weight's shape, float32 at least. Samples are run one by one, in constant memory; `batch_norm`
    as for `gradient`.

    Cost: a forward and a backward pass for each sample.
    """
    with differentiable(model, tensors, batch_norm):
        return _mean(
            model,
            tensors,
            data,
            lambda loss: [None if g is None else g.square() for g in _grad(loss, tensors)],
            "Fisher",
            parts=None,
        )


@quantity("hessian_diagonal", "the diagonal of the loss's Hessian")
def hessian_diagonal(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    data: CalibrationBatches,
    seed: int,
    *,
    batch_norm: str = "eval",
    draws: int = 8,
) -> dict[str, Tensor]:
    """Diagonal of the mean loss's Hessian, estimated as the mean of v ∘ H v over random signs v.

    Hutchinson 1990; Bekas, Kokiopoulou and Saad 2007. All batches share the same `draws` (default 8) vectors, drawn
    from (seed, name). Name → tensor of the weight's shape, float32 at least. Raises `InputError` for `draws` below 1.

    Cost: a forward and a backward pass, and a backward pass more for each draw, for each batch.
    """
    check_least("option draws", draws, 1)
    signs = {
        name: [
            torch.randint(2, tensor.shape, generator=generator).to(tensor) * 2 - 1
            for generator in [torch.Generator().manual_seed(seed_of("hutchinson", seed, name))]
            for _ in range(draws)
        ]
        for name, tensor in tensors.items()
    }

    def estimate(loss: Tensor) -> Grads:
        grads = _grad(loss, tensors, create_graph=True)
        total = [torch.zeros_like(tensor) for tensor in tensors.values()]
        for draw in range(draws):
            vectors = [signs[name][draw] for name in tensors]
            inner = sum(
                ((g * v).sum() for g, v in zip(grads, vectors, strict=True) if g is not None), torch.zeros(())
            )
            if not inner.requires_grad:
                break
            products = torch.autograd.grad(
                inner, list(tensors.values()), allow_unused=True, retain_graph=True
            )
            for each, v, product in zip(total, vectors, products, strict=True):
                if product is not None:
                    each += v * product / draws
        return total

    with differentiable(model, tensors, batch_norm), _twice_differentiable(model):
        return _mean(model, tensors, data, estimate, "Hessian")


@quantity("scored_weight", "the weights to score")
def scored_weight(
    model: nn.Module, tensors: Mapping[str, Tensor], seed: int, *, redraw: bool = False
) -> dict[str, Tensor]:
    """The scored weights: the model's own, or with `redraw` new random weights of linear layers.

    They are drawn from Xavier's normal distribution, by (seed, name); a zero weight stays zero.
    """
    drawn = _redrawn(model, seed) if redraw else {}
    return {name: drawn.get(name, tensor).detach() for name, tensor in tensors.items()}


def gradients(
    model: nn.Module, tensors: Mapping[str, Tensor], data: CalibrationBatches, *, batch_norm: str = "eval"
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Yield for each batch the gradient of its mean loss, by name, and its number of samples."""
    with differentiable(model, tensors, batch_norm):
        for summed, size in derivatives(model, tensors, data, lambda loss: _grad(loss, tensors), "gradients"):
            yield {name: grad / size for name, grad in summed.items()}, size


def _mean(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    data: CalibrationBatches,
    derive: Callable[[Tensor], Grads],
    title: str,
    temperature: float = 1.0,
    parts: int | None = 1,
) -> dict[str, Tensor]:
    """Return the mean over all samples of `derive(summed loss of a part)`, by name; zeros for None."""
    total = {
        name: torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
        for name, tensor in tensors.items()
    }
    samples = 0
    for derived, size in derivatives(model, tensors, data, derive, title, temperature, parts):
        for name, each in derived.items():
            total[name] += each
        samples += size
    if not samples:
        raise InputError("The data holds no batch: pass batches of inputs and labels as data=.")
    if parts is not None and parts > samples:
        raise InputError(f"The data has {samples} samples, which don't make {parts} parts: give fewer parts.")
    return {name: each / samples for name, each in total.items()}


def derivatives(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    data: CalibrationBatches,
    derive: Callable[[Tensor], Grads],
    title: str,
    temperature: float = 1.0,
    parts: int | None = 1,
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Yield `derive(summed loss)` of each part of each batch, by name, and its number of samples.

    `parts` is the number of equal parts of a batch, None for single samples. Raises `InputError` for a NaN or infinite
    loss, a loss without gradient, and a `temperature` other than 1 without labels.
    """
    for inputs, labels in Calibration.of(data).tracked(title):
        if labels is None and temperature != 1:
            raise InputError(
                f"Without labels the model's own loss counts, whose logits can't be divided by {temperature:g}: "
                "pass labels, or temperature=1."
            )
        for part, answers, size in _parts(inputs, labels, parts):
            try:
                outputs = model(**part) if isinstance(part, Mapping) else model(part)
                loss = loss_of(outputs, answers, temperature)
                derived = derive(size * finite(loss))
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise InputError(
                    f"The calibration data gives no gradient ({reason_of(error)}): pass batches of what the "
                    "model takes and labels that fit its outputs."
                ) from error
            pairs = zip(tensors, derived, strict=True)
            yield {name: each.detach() for name, each in pairs if each is not None}, size


def _grad(output: Tensor, tensors: Mapping[str, Tensor], create_graph: bool = False) -> Grads:
    """Return the gradient in each of the tensors, None for one that the output does not depend on."""
    if not output.requires_grad:
        return [None] * len(tensors)
    return torch.autograd.grad(output, list(tensors.values()), allow_unused=True, create_graph=create_graph)


def loss_of(outputs: Any, labels: Tensor | None, temperature: float = 1.0) -> Tensor:
    """Return the mean loss of a batch: cross-entropy with its labels, or the model's own without labels.

    Raises `InputError` if there are neither labels nor a loss of the model.
    """
    if labels is None:
        loss: Tensor | None = getattr(outputs, "loss", None)
        if loss is None:
            raise InputError(
                "The calibration data has no labels, and the model computes no loss of its own: pass labels."
            )
        return loss
    logits = outputs if isinstance(outputs, Tensor) else outputs.logits
    return F.cross_entropy(logits / temperature if temperature != 1 else logits, labels)


def finite(loss: Tensor) -> Tensor:
    """Return the loss. Raises `InputError` for one that is NaN or infinite."""
    if not bool(torch.isfinite(loss.detach()).all()):
        raise InputError(
            "The loss on the calibration data is NaN or infinity: look at the inputs and the labels."
        )
    return loss


def _parts(inputs: Any, labels: Tensor | None, parts: int | None) -> Iterator[tuple[Any, Tensor | None, int]]:
    """Yield inputs, labels and number of samples of each of `parts` equal parts, or of each sample for None.

    Keywords without a batch dimension, such as use_cache=False, are repeated in every part.
    """
    size = batch_size(inputs) if isinstance(inputs, Mapping) else len(inputs)
    length = 1 if parts is None else max(1, math.ceil(size / parts))
    for start in range(0, size, length):
        rows = slice(start, start + length)
        part = (
            {
                name: each[rows] if isinstance(each, Tensor) and each.ndim and len(each) == size else each
                for name, each in inputs.items()
            }
            if isinstance(inputs, Mapping)
            else inputs[rows]
        )
        yield part, None if labels is None else labels[rows], min(length, size - start)


@contextmanager
def differentiable(model: nn.Module, tensors: Mapping[str, Tensor], batch_norm: str) -> Iterator[None]:
    """Enable gradients of all `tensors` in the block, frozen ones too, with batch normalisation as in `normalising`."""
    frozen = [tensor for tensor in tensors.values() if not tensor.requires_grad]
    with normalising(model, batch_norm), torch.enable_grad():
        for tensor in frozen:
            tensor.requires_grad_(True)
        try:
            yield
        finally:
            for tensor in frozen:
                tensor.requires_grad_(False)


@contextmanager
def _twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Use kernels with second derivatives in the block: math attention, and unfused recurrent layers."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in modules_of(model))
    with unfused() if recurrent else sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def _lent(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace the values of parameters in the block."""
    parameters = dict(named_parameters(model))
    own = {name: parameters[name].data for name in values}
    for name, value in values.items():
        parameters[name].data = value
    try:
        yield
    finally:
        for name, value in own.items():
            parameters[name].data = value


def _redrawn(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return new weights of all linear layers from Xavier's normal distribution; zeros stay zero."""
    drawn = {}
    linear = {id(module.weight) for module in modules_of(model) if isinstance(module, nn.Linear)}
    for name, weight in named_parameters(model):
        if id(weight) in linear:
            generator = torch.Generator().manual_seed(seed_of("redraw", seed, name))
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            drawn[name] = noise * math.sqrt(2 / sum(weight.shape)) * (weight.detach() != 0)
    return drawn
