"""Generators of random numbers that objects hold: modules with a stream of their own, loaders with `generator=`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.core.modules import modules_of


@dataclass(frozen=True)
class GeneratorKind:
    """How the state of one kind of generator is read, set, and made from a seed."""

    read: Callable[[Any], Any]
    write: Callable[[Any, Any], None]
    seed: Callable[[Any, int], None]


def _seed_numpy(generator: np.random.Generator, seed: int) -> None:
    bits = generator.bit_generator
    bits.state = type(bits)(seed).state


def _write_numpy(generator: np.random.Generator, state: Any) -> None:
    generator.bit_generator.state = state


GENERATOR_KINDS: dict[type, GeneratorKind] = {
    torch.Generator: GeneratorKind(
        lambda each: each.get_state(),
        lambda each, state: each.set_state(state),
        lambda each, seed: each.manual_seed(seed),
    ),
    np.random.Generator: GeneratorKind(lambda each: each.bit_generator.state, _write_numpy, _seed_numpy),
    np.random.RandomState: GeneratorKind(
        lambda each: each.get_state(),
        lambda each, state: each.set_state(state),
        lambda each, seed: each.seed(seed % 2**32),
    ),
    random.Random: GeneratorKind(
        lambda each: each.getstate(),
        lambda each, state: each.setstate(state),
        lambda each, seed: each.seed(seed),
    ),
}
"""Type of a generator → how its state is handled."""


def generators_of(owner: object) -> list[tuple[GeneratorKind, Any]]:
    """Return the generators that a module and its submodules, or a data loader and its samplers, hold as attributes."""
    held = {id(value): value for part in _parts(owner) for value in getattr(part, "__dict__", {}).values()}
    return [
        (kind, value)
        for value in held.values()
        for each, kind in GENERATOR_KINDS.items()
        if isinstance(value, each) and not isinstance(value, random.SystemRandom)
    ]


def _parts(owner: object) -> Iterator[object]:
    """Yield a module and its submodules, or a data loader with its data set and samplers."""
    if isinstance(owner, nn.Module):
        yield from modules_of(owner)
        return
    yield owner
    for name in ("dataset", "sampler", "batch_sampler"):
        yield (part := getattr(owner, name, None))
        yield getattr(part, "sampler", None)
