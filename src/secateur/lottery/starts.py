"""What a level starts from: the registry of ways back, and of the baselines beside them.

A start is a function whose parameters name what it needs:

    trained   the weights that the training before this cut has left
    origin    the dense training's weights at the moment to go back to, its BatchNorm statistics with them
    fresh     weights newly drawn
    masks     what the cut has left
    seed      a seed of this start at this level

Each but `masks` and `seed` is a `state_dict`. It returns a state and masks; the masks are applied to the state by who
calls it. Registering a start is all it takes for the library, the command line and the documentation to know it.
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

    What a start that `leads` has trained is cut for its own next level; the others take the masks of one that does.
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
        """What the function takes."""
        return tuple(inspect.signature(self.begin).parameters)

    def of(self, sources: Mapping[str, Callable[[], Any]]) -> tuple[StateDict, Masks]:
        """Begin with what the sources give; those that are not needed are not asked."""
        return self.begin(*(sources[need]() for need in self.needs))


STARTS: Registry[Start] = Registry("start")


def start(name: str, *, training: str, paper: str, leads: bool = False) -> Callable[[AnyBegin], AnyBegin]:
    """Register the decorated function as a start."""
    TRAININGS[training]

    def register(begin: AnyBegin) -> AnyBegin:
        STARTS.add(name, Start(name, begin, training, leads, paper))
        return begin

    return register


@start("weights", training="rewound", leads=True, paper="Frankle & Carbin 2019; Frankle et al. 2020")
def weights(origin: StateDict, masks: Masks) -> tuple[StateDict, Masks]:
    """The dense training's weights at that moment, and its schedule from there on: a lottery ticket."""
    return origin, masks


@start("lr", training="rewound", leads=True, paper="Renda, Frankle & Carbin 2020")
def learning_rate(trained: StateDict, masks: Masks) -> tuple[StateDict, Masks]:
    """The weights as trained; the schedule goes back to that moment: learning-rate rewinding."""
    return trained, masks


@start("none", training="finetuned", leads=True, paper="Han et al. 2015")
def none(trained: StateDict, masks: Masks) -> tuple[StateDict, Masks]:
    """The weights as trained, at the last learning rate: fine-tuning."""
    return trained, masks


@start("reinit", training="whole", paper="Frankle & Carbin 2019")
def reinit(fresh: StateDict, masks: Masks) -> tuple[StateDict, Masks]:
    """The same masks on weights newly drawn."""
    return fresh, masks


@start("reshuffle", training="rewound", paper="Zhou et al. 2019; Frankle et al. 2020")
def reshuffle(origin: StateDict, masks: Masks, seed: int) -> tuple[StateDict, Masks]:
    """The masks shuffled within each layer, on the weights that `weights` goes back to."""
    return origin, shuffled(masks, seed)


@start("random", training="whole", paper="Frankle & Carbin 2019")
def random(fresh: StateDict, masks: Masks, seed: int) -> tuple[StateDict, Masks]:
    """Masks drawn at random with as many weights in each layer, on weights newly drawn: a random subnetwork."""
    return fresh, shuffled(masks, seed)


@start("scratch_e", training="whole", paper="Liu et al. 2019, Scratch-E")
def scratch_e(fresh: StateDict, masks: Masks) -> tuple[StateDict, Masks]:
    """The small network newly drawn, for the same epochs; of masked weights it is another draw of reinit."""
    return fresh, masks


@start("scratch_b", training="longer", paper="Liu et al. 2019, Scratch-B")
def scratch_b(fresh: StateDict, masks: Masks) -> tuple[StateDict, Masks]:
    """The small network newly drawn, for as many MACs: epochs · MACs of the dense model ÷ MACs left."""
    return fresh, masks


def start_seed(start: str, seed: int, level: float) -> int:
    """Return what a start draws from at a level: another seed for each start, each level and each dense training."""
    return seed_of("lottery", start, seed, f"{level:g}")


def shuffled(masks: Mapping[str, Tensor], seed: int) -> Masks:
    """Return masks with the same number of weights in each tensor, at places drawn at random.

    >>> shuffled({"w": torch.arange(6).reshape(2, 3) < 2}, seed=0)["w"].sum().item()
    2
    """

    def one(name: str, mask: Tensor) -> Tensor:
        stream = torch.Generator().manual_seed(seed_of("shuffle", seed, name))
        places = torch.randperm(mask.numel(), generator=stream).to(mask.device)
        return mask.flatten()[places].reshape(mask.shape)

    return Masks({name: one(name, mask) for name, mask in masks.items()})
