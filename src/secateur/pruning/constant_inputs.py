"""Inputs of readers that never change, found in passes with other weights wherever these are not zero.

A zero weight stays zero and any other is multiplied by a random factor of random sign, so an input that is the same at
all places of several passes is so because of the zeros, not because an activation happens to be closed.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.core.copying import copy_with
from secateur.graph.probe import Probe, TensorPlace
from secateur.graph.program import Program
from secateur.importance.sites import Spot
from secateur.measure.inputs import ModelInputs

DRAWS = 16
"""Draws of other weights: a unit of a rectifier is closed in all of them by chance of 2⁻¹⁶ at most, mostly far less."""
EQUAL = 1e-11
"""Largest range of a constant, as a fraction of the largest entry of its tensor."""

ConstantEntries = dict[Spot, tuple[Tensor, Tensor]]
"""Spot → (whether each index along its dimension is constant, bool; its value, float64)."""


class Watched:
    """A copy of a float64 model whose weights can be drawn anew, and what it shows at some spots."""

    def __init__(self, model: nn.Module, program: Program, spots: Collection[Spot]) -> None:
        self.model, self.wanted = in_float64(model), dict[TensorPlace, list[Spot]]()
        for spot in spots:
            self.wanted.setdefault(spot.place, []).append(spot)
        self.probe = Probe(self.model, program, self.wanted)
        self.own = [(each, each.detach().clone()) for each in self.model.parameters()]

    @torch.no_grad()
    def redraw(self, generator: torch.Generator) -> None:
        """Multiply the weights by factors in ±[0.5, 1]: zeros stay."""
        for parameter, own in self.own:
            if own.is_floating_point():
                factor = torch.rand(own.shape, generator=generator) - 0.5
                parameter.copy_(own * (factor + factor.sign() / 2).to(own))

    def constants(self, *batches: ModelInputs) -> ConstantEntries:
        """Return which indices are the same at all places of all batches, and their values in the first."""
        found: ConstantEntries = {}
        for number, batch in enumerate(batches):
            now = self._pass(batch)
            if number == 0:
                found = now
            else:
                found = {spot: _both(each, now[spot]) for spot, each in found.items() if spot in now}
        return found

    def _pass(self, batch: ModelInputs) -> ConstantEntries:
        found: ConstantEntries = {}

        def seen(place: TensorPlace, tensor: Tensor) -> None:
            for spot in self.wanted[place]:
                rows = tensor.detach().movedim(spot.dim, 0).flatten(1)
                scale = rows.abs().amax().clamp(min=1e-30)
                found[spot] = (rows.amax(1) - rows.amin(1) <= EQUAL * scale).cpu(), rows[:, 0].double().cpu()

        with torch.no_grad(), doubled():
            self.probe.run(batch, seen)
        return found


def _both(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    (same, value), (again, now) = one, other
    scale = torch.maximum(value.abs().amax(), now.abs().amax()).clamp(min=1e-30)
    return same & again & ((value - now).abs() <= EQUAL * scale), value


def always(
    model: nn.Module, program: Program, spots: Collection[Spot], inputs: ModelInputs
) -> ConstantEntries:
    """Return what is constant at the spots of a float64 model, with other inputs and other weights as well."""
    watched = Watched(model, program, spots)
    found = watched.constants(inputs, other_inputs(inputs, 0))
    for draw in range(1, DRAWS + 1):
        if not any(bool(same.any()) for same, _ in found.values()):
            break
        watched.redraw(torch.Generator().manual_seed(draw))
        now = watched.constants(inputs, other_inputs(inputs, draw))
        found = {spot: (same & now[spot][0], value) for spot, (same, value) in found.items() if spot in now}
    return found


def in_float64(model: nn.Module) -> nn.Module:
    """Return a copy of a model in float64."""

    def wide(tensor: Tensor) -> Tensor:
        own = tensor.detach().double() if tensor.is_floating_point() else tensor.detach().clone()
        return (
            nn.Parameter(own.clone(), requires_grad=False)
            if isinstance(tensor, nn.Parameter)
            else own.clone()
        )

    return copy_with(model, wide)


def wide_inputs(inputs: Any) -> Any:
    """Return inputs with all floating-point tensors in float64."""
    return tree_map(lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, inputs)


def other_inputs(inputs: Any, seed: int) -> Any:
    """Return inputs with noise on real numbers, and whole ones, such as tokens, drawn between 0 and their largest."""
    generator = torch.Generator().manual_seed(seed)

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.numel() or leaf.dtype is torch.bool or leaf.is_complex():
            return leaf
        if leaf.is_floating_point():
            noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf)
            return leaf + noise * leaf.abs().amax().clamp(min=0.1)
        most = max(1, int(leaf.amax()))
        return torch.randint(0, most + 1, leaf.shape, generator=generator).to(leaf)

    return tree_map(other, inputs)


@contextmanager
def doubled() -> Any:
    """Make float64 the default type of new tensors while the block runs."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
