"""Mask criteria, and treatments of kept and of masked weights, for masks of a finished training.

Three registries (Zhou et al. 2019, sections 2 to 4). Each entry is a function of one layer whose parameters are among

    initial   the weights before the training
    final     the weights after it
    fresh     newly drawn weights
    mask      boolean, True for a kept weight
    stream    a random generator on the CPU, one for each layer and seed

Criteria return scores, of which the highest are kept; treatments return weights. All have the layer's shape. The
library, the command line and the documentation read the registries.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.core.registry import Registry

SAME_SIGN = "_same_sign"
"""Suffix of the criteria that keep only weights whose sign is the same before and after the training."""


@dataclass(frozen=True)
class SupermaskRule:
    """A registered function of one layer: a mask criterion or a treatment."""

    function: Callable[..., Tensor]

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the function's parameters."""
        return tuple(inspect.signature(self.function).parameters)

    def of(self, sources: Mapping[str, Any]) -> Tensor:
        """Return the function's value, with its arguments taken from `sources` by name."""
        return self.function(*(sources[need] for need in self.needs))


@dataclass(frozen=True)
class MaskCriterion(SupermaskRule):
    """A rule for kept weights: the highest scores, of all weights or of those of the `same_sign` before and after."""

    same_sign: bool


MASK_CRITERIA: Registry[MaskCriterion] = Registry("mask criterion")
KEPT: Registry[SupermaskRule] = Registry("treatment of kept weights")
MASKED: Registry[SupermaskRule] = Registry("treatment of masked weights")


def criterion(name: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register the decorated function as a mask criterion, and with `SAME_SIGN` as one of weights of the same sign."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        MASK_CRITERIA.add(name, MaskCriterion(function, same_sign=False))
        MASK_CRITERIA.add(name + SAME_SIGN, MaskCriterion(function, same_sign=True))
        return function

    return register


def treatment(
    registry: Registry[SupermaskRule], name: str
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register the decorated function as a treatment: of `KEPT` or of `MASKED` weights."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        registry.add(name, SupermaskRule(function))
        return function

    return register


@criterion("large_final")
def large_final(final: Tensor) -> Tensor:
    """|w_f|: large after the training."""
    return final.abs()


@criterion("small_final")
def small_final(final: Tensor) -> Tensor:
    """−|w_f|: small after the training."""
    return -final.abs()


@criterion("large_init")
def large_init(initial: Tensor) -> Tensor:
    """|w_i|: large before the training."""
    return initial.abs()


@criterion("small_init")
def small_init(initial: Tensor) -> Tensor:
    """−|w_i|: small before the training."""
    return -initial.abs()


@criterion("large_init_large_final")
def large_init_large_final(initial: Tensor, final: Tensor) -> Tensor:
    """min(|w_i|, α |w_f|): large before and after."""
    return torch.minimum(initial.abs(), evened(initial, final))


@criterion("small_init_small_final")
def small_init_small_final(initial: Tensor, final: Tensor) -> Tensor:
    """−max(|w_i|, α |w_f|): small before and after."""
    return -torch.maximum(initial.abs(), evened(initial, final))


@criterion("magnitude_increase")
def magnitude_increase(initial: Tensor, final: Tensor) -> Tensor:
    """|w_f| − |w_i|: largest growth."""
    return final.abs() - initial.abs()


@criterion("movement")
def movement(initial: Tensor, final: Tensor) -> Tensor:
    """|w_f − w_i|: largest movement."""
    return (final - initial).abs()


@criterion("random")
def random(initial: Tensor, stream: torch.Generator) -> Tensor:
    """Random scores: the baseline."""
    return torch.rand(initial.shape, generator=stream, dtype=torch.float64).to(initial.device)


def evened(initial: Tensor, final: Tensor) -> Tensor:
    """Return α |w_f| with α = mean |w_i| ÷ mean |w_f|; α = 1 if all w_f are zero."""
    sizes = final.abs()
    mean = sizes.mean()
    return sizes * torch.where(mean > 0, initial.abs().mean() / mean, 1.0)


@treatment(KEPT, "rewind")
def rewind(initial: Tensor) -> Tensor:
    """The values before the training."""
    return initial


@treatment(KEPT, "reinit")
def reinit(fresh: Tensor) -> Tensor:
    """Newly drawn values, from the model's own initialisation."""
    return fresh


@treatment(KEPT, "reinit_signed")
def reinit_signed(initial: Tensor, fresh: Tensor) -> Tensor:
    """Newly drawn magnitudes, with the signs before the training."""
    return fresh.abs().copysign(initial)


@treatment(KEPT, "reshuffle")
def reshuffle(initial: Tensor, mask: Tensor, stream: torch.Generator) -> Tensor:
    """The values before the training, shuffled among the kept weights of the layer."""
    values = initial[mask]
    places = torch.randperm(len(values), generator=stream).to(initial.device)
    return initial.masked_scatter(mask, values[places])


@treatment(KEPT, "reshuffle_signed")
def reshuffle_signed(initial: Tensor, mask: Tensor, stream: torch.Generator) -> Tensor:
    """The magnitudes before the training, shuffled among the kept weights of the layer; signs stay in place."""
    return reshuffle(initial.abs(), mask, stream).copysign(initial)


@treatment(KEPT, "constant")
def constant(initial: Tensor) -> Tensor:
    """±σ, the standard deviation of the layer before the training, with the signs before the training."""
    return initial.sign() * initial.std(correction=0)


@treatment(MASKED, "zero")
def zero(initial: Tensor) -> Tensor:
    """Zero."""
    return torch.zeros_like(initial)


@treatment(MASKED, "frozen")
def frozen(initial: Tensor) -> Tensor:
    """The values before the training."""
    return initial
