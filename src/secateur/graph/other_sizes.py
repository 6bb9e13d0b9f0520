"""The example inputs at a second size: what belongs together may depend on it.

Code that reshapes [batch, height · width, channels] to [batch, channels, height, width] couples other channels at each
size of an image. So a model is traced once more with more samples and larger images or longer sequences, if it takes
them. Where another partition of its indices comes out, both passes are one program: what belongs together in either
goes together, and the proof runs both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from secateur.core.contexts import evaluating
from secateur.core.errors import ModelError
from secateur.core.seeds import same_draws
from secateur.graph.couple import couple
from secateur.graph.coupling import Coupling
from secateur.graph.labels import FIXED, Vector
from secateur.graph.program import Program
from secateur.graph.trace import attempt, trace
from secateur.measure.examples import Example, Examples, call
from secateur.measure.inputs import ModelInputs, arguments, batch_size


def trace_sizes(model: nn.Module, examples: Examples) -> tuple[Program, Examples]:
    """Trace in both modes, at a second size too where that couples other indices; return the program and its examples.

    Left as they are: several examples, whose sizes are the caller's choice, and a model that runs on real numbers.
    """
    program = trace(model, examples, training=True)
    if len(examples) > 1 or program.real:
        return program, examples
    training = any(each.training for each in program.passes)
    for inputs in second_sizes(examples.first):
        other = Example(inputs, examples.calls[0].method)
        second, error = attempt(model, Examples((other,)), program.tensors_were, training=training)
        if error is None and _as_many_samples(program, second, batch_size(examples.first)):
            program.elsewhere = second.methods
            if _same(couple(program), couple(second)):
                break
            if _runs(model, other):
                both = Examples((*examples, other))
                joint, error = attempt(model, both, program.tensors_were, training=training)
                return (joint, both) if error is None else (program, examples)
    return program, examples


def _runs(model: nn.Module, example: Example) -> bool:
    """Whether the model runs on the numbers of an example, which a trace does not look at."""
    try:
        with torch.no_grad(), same_draws(0, model), evaluating(model):
            call(model, example)
    except ModelError:
        return False
    return True


def _as_many_samples(program: Program, second: Program, samples: int) -> bool:
    """Whether the first dimension of each output grew by one sample, or not at all.

    It grows otherwise where code such as `view(-1, 512)` takes a larger image for more samples.
    """
    shapes = [[each.values[output].shape for output in each.outputs] for each in (program, second)]
    return len(shapes[0]) == len(shapes[1]) and all(
        one[:1] == other[:1] or one[0] * (samples + 1) == other[0] * samples
        for one, other in zip(*shapes, strict=True)
    )


def second_sizes(inputs: ModelInputs) -> Iterator[ModelInputs]:
    """Yield the inputs with more samples and, the first that a model takes being meant, other sizes of what varies.

    These are height and width, or the length; those of the same size in other tensors change along. Entries repeat.
    """
    args, kwargs = arguments(inputs)
    first = next((leaf for leaf in tree_leaves((args, kwargs)) if _has_sizes(leaf)), None)
    if first is None or any(isinstance(each, PackedSequence) for each in (*args, *kwargs.values())):
        return
    for factors in _scalings(first):
        yield _resized(inputs, first, factors)


def _scalings(tensor: Tensor) -> Iterator[dict[int, Fraction]]:
    """Yield the dimensions to scale and by how much, the most telling first, at last none."""
    varied = range(2, tensor.ndim)
    if tensor.ndim > 3:
        yield {dim: Fraction(2 + dim % 2) for dim in varied}
        yield dict.fromkeys(varied, Fraction(2))
    elif tensor.ndim == 3 or (tensor.ndim == 2 and not tensor.is_floating_point()):
        for dim in range(1, tensor.ndim):
            yield {dim: Fraction(2)}
            yield {dim: Fraction(1, 2)}
    yield {}


def _resized(inputs: ModelInputs, first: Tensor, factors: Mapping[int, Fraction]) -> ModelInputs:
    by_size = {first.shape[dim]: factor for dim, factor in factors.items()}

    def size_of(leaf: Tensor, dim: int) -> int:
        size = leaf.shape[dim]
        if dim == 0:
            return size + (size == first.shape[0])
        alike = leaf.ndim == first.ndim and size == first.shape[dim]
        factor = factors.get(dim, Fraction(1)) if alike else by_size.get(size, Fraction(1))
        return max(1, int(size * factor))

    def resized(leaf: Any) -> Any:
        if _has_sizes(leaf):
            for dim in range(leaf.ndim):
                index = torch.arange(size_of(leaf, dim), device=leaf.device) % leaf.shape[dim]
                leaf = leaf.index_select(dim, index)
        return leaf

    args, kwargs = arguments(inputs)
    other: ModelInputs = tree_map(resized, kwargs if isinstance(inputs, Mapping) else args)
    return other


def _has_sizes(leaf: Any) -> bool:
    """Whether a leaf is a tensor whose sizes may be others."""
    return isinstance(leaf, Tensor) and leaf.layout is torch.strided and leaf.ndim > 0 and leaf.numel() > 0


def _same(one: Coupling, other: Coupling) -> bool:
    """Whether the same indices of parameters belong together and may go."""
    return np.array_equal(_partition(one), _partition(other))


def _partition(coupling: Coupling) -> Vector:
    """Return for every index of every dimension of every parameter the number of its unit; −1 where it must stay."""
    program, labels = coupling.program, coupling.labels
    vectors = [
        vector
        for index in program.tensors.values()
        if program.values[index].kind == "parameter"
        for vector in coupling.dims[index]
        if vector is not None
    ]
    if not vectors:
        return np.empty(0, dtype=np.int64)
    every = np.concatenate(vectors)
    stays = (every == FIXED) | (labels.locked()[0][every] >= 0)
    _, first, unit = np.unique(labels.find(every), return_index=True, return_inverse=True)
    return np.where(stays, -1, np.argsort(np.argsort(first))[unit])
