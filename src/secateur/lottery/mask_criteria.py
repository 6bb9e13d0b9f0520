"""What may be asked of a training by a mask: which weights stay, what they become, and what the others become.

Three registries (Zhou et al. 2019, sections 2 to 4). Each entry is a function of one layer whose parameters name what
it needs:

    initial   the weights before the training
    final     the weights after it
    fresh     weights newly drawn
    mask      True where a weight stays
    stream    a generator of random numbers on the CPU, of its own for each layer and seed

Criteria return scores, of which the highest stay; treatments return weights. All have the layer's shape. Registering a
function is all it takes for the library, the command line and the documentation to know it.
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
"""What a criterion's name ends with where only weights can stay whose sign the training has not changed."""


@dataclass(frozen=True)
class SupermaskRule:
    """A part of a question."""

    function: Callable[..., Tensor]

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def needs(self) -> tuple[str, ...]:
        """What the function takes."""
        return tuple(inspect.signature(self.function).parameters)

    def of(self, sources: Mapping[str, Any]) -> Tensor:
        """Call the function with what it needs of the sources."""
        return self.function(*(sources[need] for need in self.needs))


@dataclass(frozen=True)
class MaskCriterion(SupermaskRule):
    """Which weights stay: the highest scores, of all weights or of those with the `same_sign` as before."""

    same_sign: bool


MASK_CRITERIA: Registry[MaskCriterion] = Registry("mask criterion")
KEPT: Registry[SupermaskRule] = Registry("treatment of kept weights")
MASKED: Registry[SupermaskRule] = Registry("treatment of masked weights")


def criterion(name: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register the decorated function as a mask criterion, and as another one for weights that kept their sign."""

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
    """|w_f| − |w_i|: has grown most."""
    return final.abs() - initial.abs()


@criterion("movement")
def movement(initial: Tensor, final: Tensor) -> Tensor:
    """|w_f − w_i|: has moved furthest."""
    return (final - initial).abs()


@criterion("random")
def random(initial: Tensor, stream: torch.Generator) -> Tensor:
    """Drawn at random: the baseline."""
    return torch.rand(initial.shape, generator=stream, dtype=torch.float64).to(initial.device)


def evened(initial: Tensor, final: Tensor) -> Tensor:
    """Return α |w_f|, with the α that gives it the mean of |w_i|; |w_f| itself where all of it is zero."""
    sizes = final.abs()
    mean = sizes.mean()
    return sizes * torch.where(mean > 0, initial.abs().mean() / mean, 1.0)


@treatment(KEPT, "rewind")
def rewind(initial: Tensor) -> Tensor:
    """What they were before the training."""
    return initial


@treatment(KEPT, "reinit")
def reinit(fresh: Tensor) -> Tensor:
    """Newly drawn, as the model draws them."""
    return fresh


@treatment(KEPT, "reinit_signed")
def reinit_signed(initial: Tensor, fresh: Tensor) -> Tensor:
    """Newly drawn, with the signs they had before the training."""
    return fresh.abs().copysign(initial)


@treatment(KEPT, "reshuffle")
def reshuffle(initial: Tensor, mask: Tensor, stream: torch.Generator) -> Tensor:
    """Their values before the training, shuffled among them within the layer."""
    values = initial[mask]
    places = torch.randperm(len(values), generator=stream).to(initial.device)
    return initial.masked_scatter(mask, values[places])


@treatment(KEPT, "reshuffle_signed")
def reshuffle_signed(initial: Tensor, mask: Tensor, stream: torch.Generator) -> Tensor:
    """Sizes shuffled like that, with the signs they had before the training."""
    return reshuffle(initial.abs(), mask, stream).copysign(initial)


@treatment(KEPT, "constant")
def constant(initial: Tensor) -> Tensor:
    """±σ, the standard deviation of the layer before the training, with the signs they had then."""
    return initial.sign() * initial.std(correction=0)


@treatment(MASKED, "zero")
def zero(initial: Tensor) -> Tensor:
    """Zero."""
    return torch.zeros_like(initial)


@treatment(MASKED, "frozen")
def frozen(initial: Tensor) -> Tensor:
    """What they were before the training."""
    return initial
