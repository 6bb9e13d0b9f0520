"""The example inputs at a second size: what belongs together may depend on it.

Code that reshapes [batch, height · width, channels] to [batch, channels, height, width] couples other channels at each
size of an image. So a model is traced once more with more samples and larger images or longer sequences, if it takes
them. Where another partition of its indices comes out, both passes are one program: what belongs together in either
goes together, and the proof runs both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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

    Left as they are: several examples, whose sizes are the caller's choice, a model that runs on real numbers, and one
    whose code reads no size.
    """
    program = trace(model, examples, training=True)
    if len(examples) > 1 or program.real or not program.follows_sizes:
        return program, examples
    training = any(each.training for each in program.passes)
    for size in second_sizes(examples.first):
        method = examples.calls[0].method
        shapes = Examples((Example(size.shapes, method),))
        second, error = attempt(model, shapes, program.tensors_were, training=training)
        if error is None and _as_many_samples(program, second, batch_size(examples.first)):
            program.elsewhere = second.methods
            if _same(couple(program), couple(second)):
                break
            other = Example(size.inputs, method)
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
    """Whether the first dimension of each output changed as the number of samples did, or not at all.

    It changes otherwise where code such as `view(-1, 512)` takes a larger image for more samples.
    """
    shapes = [[each.values[output].shape for output in each.outputs] for each in (program, second)]
    return len(shapes[0]) == len(shapes[1]) and all(
        one[:1] == other[:1] or one[0] * _other_than(samples) == other[0] * samples
        for one, other in zip(*shapes, strict=True)
    )


def _other_than(samples: int) -> int:
    """Return another number of samples, a small one, as their numbers may have to be computed with."""
    return samples + 1 if samples < 3 else 2


@dataclass(frozen=True)
class SecondSize:
    """Inputs of another size: dimensions of the `first` tensor scaled by `factors`, and another number of samples.

    Dimensions of the same sizes in other tensors change along.
    """

    example: ModelInputs
    first: Tensor
    factors: Mapping[int, Fraction]

    @property
    def shapes(self) -> ModelInputs:
        """The inputs without numbers."""
        return self._with(lambda leaf, sizes: torch.empty(sizes, dtype=leaf.dtype, device="meta"))

    @property
    def inputs(self) -> ModelInputs:
        """The inputs with the numbers of the example, repeated or cut."""

        def repeated(leaf: Tensor, sizes: list[int]) -> Tensor:
            for dim, size in enumerate(sizes):
                leaf = leaf.index_select(dim, torch.arange(size, device=leaf.device) % leaf.shape[dim])
            return leaf

        return self._with(repeated)

    def _with(self, made: Callable[[Tensor, list[int]], Tensor]) -> ModelInputs:
        args, kwargs = arguments(self.example)
        other: ModelInputs = tree_map(
            lambda leaf: made(leaf, self._sizes(leaf)) if _has_sizes(leaf) else leaf,
            kwargs if isinstance(self.example, Mapping) else args,
        )
        return other

    def _sizes(self, leaf: Tensor) -> list[int]:
        shape, by_size = self.first.shape, {self.first.shape[dim]: f for dim, f in self.factors.items()}
        same, samples = leaf.ndim == len(shape), shape[0]
        sizes = [_other_than(samples) if leaf.shape[0] == samples else leaf.shape[0]]
        for dim, size in enumerate(leaf.shape[1:], 1):
            factor = self.factors.get(dim) if same and size == shape[dim] else by_size.get(size)
            sizes.append(max(1, int(size * (factor or 1))))
        return sizes


def second_sizes(inputs: ModelInputs) -> Iterator[SecondSize]:
    """Yield other sizes of inputs, the most telling first; the first that a model takes is meant.

    Height and width, or the length, change with the number of samples, and at last that alone.
    """
    args, kwargs = arguments(inputs)
    first = next((leaf for leaf in tree_leaves((args, kwargs)) if _has_sizes(leaf)), None)
    if first is None or any(isinstance(each, PackedSequence) for each in (*args, *kwargs.values())):
        return
    for factors in _scalings(first):
        yield SecondSize(inputs, first, factors)


def _scalings(tensor: Tensor) -> Iterator[dict[int, Fraction]]:
    """Yield the dimensions to scale and by how much, the most telling first, at last none."""
    varied = range(2, tensor.ndim)
    if tensor.ndim > 3:
        yield {dim: Fraction(2 + dim % 2) for dim in varied}
    elif tensor.ndim == 3 and tensor.is_floating_point():
        yield from ({dim: Fraction(2)} for dim in (1, 2))
    elif tensor.ndim > 1 and not tensor.is_floating_point():
        yield from ({1: factor} for factor in (Fraction(2), Fraction(1, 2)))
    yield {}


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
