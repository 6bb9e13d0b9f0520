"""Starts of a level: the registry of rewinding methods and of the baselines beside them.

A start is a function whose parameters are among

    trained   the weights at the end of the training before this cut
    origin    the dense training's weights and BatchNorm statistics at the moment to rewind to
    fresh     newly drawn weights
    masks     the masks of the cut
    seed      the seed of this start at this level

Each but `masks` and `seed` is a `state_dict`. It returns a state and masks; the caller applies the masks to the state.
The library, the command line and the documentation read the registry.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from secateur.core.registry import Registry
from secateur.core.seeds import seed_of
from secateur.lottery.retraining import TRAININGS
from secateur.sparsity.masks import Masks

StateDict: TypeAlias = Mapping[str, Tensor]
Begin: TypeAlias = Callable[..., tuple[StateDict, Masks]]
AnyBegin = TypeVar("AnyBegin", bound=Begin)


@dataclass(frozen=True)
class Start:
    """A registered start: `begin(*needs)` → state and masks; `training` names one of `TRAININGS`.

    The network of a start that `leads` is cut for its own next level; other starts take the masks of one that leads.
    """

    name: str
    begin: Begin
    training: str
    leads: bool
    paper: str

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.begin) or "").partition("\n")[0]

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the function's parameters."""
        return tuple(inspect.signature(self.begin).parameters)

    def of(self, sources: Mapping[str, Callable[[], Any]]) -> tuple[StateDict, Masks]:
        """Return `begin` of the sources it needs; the others are not called."""
        return self.begin(*(sources[need]() for need in self.needs))


STARTS: Registry[Start] = Registry("start")


def start(name: str, *, training: str, paper: str, leads: bool = False) -> Callable[[AnyBegin], AnyBegin]:
    """Register the decorated function as the start `name`, trained by `training` of `TRAININGS`."""
    TRAININGS[training]

    def register(begin: AnyBegin) -> AnyBegin:
        STARTS.add(name, Start(name, begin, training, leads, paper))
        return begin

    return register


@start("weights", training="rewound", leads=True, paper="Frankle & Carbin 2019; Frankle et al. 2020")
def weights(origin: StateDict, masks: Masks) -> tuple[StateDict, Masks]:
    """The dense training's weights and schedule from the moment `rewind_to` on: a lottery ticket."""
    return origin, masks


@start("lr", training="rewound", leads=True, paper="Renda, Frankle & Carbin 2020")
def learning_rate(trained: StateDict, masks: Masks) -> tuple[StateDict, Masks]:
    """The trained weights, and the schedule from the moment `rewind_to` on: learning-rate rewinding."""
    return trained, masks


@start("none", training="finetuned", leads=True, paper="Han et al. 2015")
def none(trained: StateDict, masks: Masks) -> tuple[StateDict, Masks]:
    """The trained weights, at the last learning rate: fine-tuning."""
    return trained, masks


@start("reinit", training="whole", paper="Frankle & Carbin 2019")
def reinit(fresh: StateDict, masks: Masks) -> tuple[StateDict, Masks]:
    """The same masks on newly drawn weights."""
    return fresh, masks


@start("reshuffle", training="rewound", paper="Zhou et al. 2019; Frankle et al. 2020")
def reshuffle(origin: StateDict, masks: Masks, seed: int) -> tuple[StateDict, Masks]:
    """The masks shuffled within each layer, on the weights of the moment `rewind_to`."""
    return origin, shuffled(masks, seed)


@start("random", training="whole", paper="Frankle & Carbin 2019")
def random(fresh: StateDict, masks: Masks, seed: int) -> tuple[StateDict, Masks]:
    """Random masks with as many weights in each layer, on newly drawn weights: a random subnetwork."""
    return fresh, shuffled(masks, seed)


@start("scratch_e", training="whole", paper="Liu et al. 2019, Scratch-E")
def scratch_e(fresh: StateDict, masks: Masks) -> tuple[StateDict, Masks]:
    """The small network newly drawn, for the same epochs; with masks it is another draw of reinit."""
    return fresh, masks


@start("scratch_b", training="longer", paper="Liu et al. 2019, Scratch-B")
def scratch_b(fresh: StateDict, masks: Masks) -> tuple[StateDict, Masks]:
    """The small network newly drawn, for as many MACs: epochs · MACs of the dense model ÷ MACs left."""
    return fresh, masks


def start_seed(start: str, seed: int, level: float) -> int:
    """Return the seed of a start at a level: one for each start, level and seed of the dense training."""
    return seed_of("lottery", start, seed, f"{level:g}")


def shuffled(masks: Mapping[str, Tensor], seed: int) -> Masks:
    """Return masks with the same number of weights in each tensor, at random positions.

    >>> shuffled({"w": torch.arange(6).reshape(2, 3) < 2}, seed=0)["w"].sum().item()
    2
    """

    def one(name: str, mask: Tensor) -> Tensor:
        stream = torch.Generator().manual_seed(seed_of("shuffle", seed, name))
        places = torch.randperm(mask.numel(), generator=stream).to(mask.device)
        return mask.flatten()[places].reshape(mask.shape)

    return Masks({name: one(name, mask) for name, mask in masks.items()})
