"""The whole search on a model of one's own, in memory."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from secateur.data import Dataset
from secateur.errors import InputError
from secateur.lottery.course import Course
from secateur.lottery.cutting import check, cut, multiples, rehearse
from secateur.lottery.early import early_stop
from secateur.lottery.order import order
from secateur.lottery.pace import pace
from secateur.lottery.starts import STARTS, start_seed
from secateur.masks import Masks
from secateur.measure import cost
from secateur.targets import prunable
from secateur.training import Duration, TrainConfig, read_snapshot, train
from secateur.training.journal import Row
from secateur.validation import sentence


@dataclass(frozen=True)
class Level:
    """A network that was trained: of level `number` (0 is the dense one), from `start`.

    `masks` say what is left, `state` is its trained `state_dict`, on the CPU, `rows` its log.
    """

    number: int
    start: str
    masks: Masks
    state: Mapping[str, Tensor]
    rows: Sequence[Row]

    @property
    def left(self) -> float:
        """Fraction of the prunable weights that is left."""
        return 1 - self.masks.sparsity

    @property
    def top1(self) -> float:
        """Top-1 on the test split after the training, a fraction."""
        return float(self.rows[-1]["top1"])

    @property
    def early_stop(self) -> int:
        """Iteration of the lowest test loss in the log."""
        return int(early_stop(self.rows)["iteration"])


def find(
    model: nn.Module,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    rate: float | None = None,
    levels: int | None = None,
    left: float | None = None,
    layer_rates: Mapping[str, float] | None = None,
    one_shot: bool = False,
    starts: str | Sequence[str] = ("weights",),
    rewind_to: str = "0it",
    finetune: int | None = None,
    make: Callable[[], nn.Module] | None = None,
    cuts: Mapping[str, Any] | None = None,
    **settings: Any,
) -> list[Level]:
    """Train `model`, then cut, start over and train, level by level; return all levels, the dense one first.

    The model ends as the last of them. Everything is kept in memory; the step `secateur.steps.Lottery` keeps run
    folders and goes on where it was stopped.

    Args:
        model: any module that `secateur.train` takes.
        data: a data set from `secateur.data.load`.
        config: how the dense model is trained; or its fields as `settings` (epochs=5, lr=0.1, …).
        rate: fraction of what is left that goes at each level, 0.2 unless levels and left decide it.
        levels: how many levels there are.
        left: fraction of the prunable weights that the last level leaves; see `pace`.
        layer_rates: multiples of the rate for some layers, such as {"output": 0.5}; see `multiples`.
        one_shot: cut every level from the dense model, instead of from the level before.
        starts: names from `STARTS`.
        rewind_to: moment of the dense training to go back to, as 2ep, 500it or 3%.
        finetune: epochs of the start none; those of the dense training when left out.
        make: makes a model like `model`, newly initialised from torch's global generator; for starts such as reinit.
        cuts: other arguments of `cut`: criterion, scope, include, keep, layers, granularity, data, …

    Raises:
        InputError: for an argument that makes no sense.
        ModelError: where the model has nothing to cut, doesn't fit the data, or its training diverges.
    """
    try:
        config = TrainConfig(**{**(config.model_dump() if config else {}), **settings})
    except ValidationError as error:
        raise InputError(sentence(error)) from None
    how = {"seed": config.seed, **(cuts or {})}
    names = (starts,) if isinstance(starts, str) else tuple(starts)
    check(how.get("granularity", "weight"), layer_rates)
    if make is None:
        for name in names:
            if "fresh" in STARTS[name].needs:
                raise InputError(f"The start {name} draws new weights: pass make=, which makes a new model.")
    targets = prunable(model, *(how.get(key, default) for key, default in TARGETS.items()))
    sizes = Counter[float]()
    for tensor, multiple in multiples(targets, layer_rates or {}).items():
        sizes[multiple] += targets[tensor].numel()
    whole = Masks({name: torch.ones_like(target, dtype=torch.bool).cpu() for name, target in targets.items()})
    p, steps = pace(sizes, rate, levels, left)
    jobs = list(order(names, len(steps), one_shot))
    rehearse(model, rate=p, level=steps[-1], layer_rates=layer_rates, **how)
    per_epoch = math.ceil(len(data.train) / config.batch_size)
    moment = Duration.parse(rewind_to).iterations(per_epoch, per_epoch * config.epochs)
    with tempfile.TemporaryDirectory() as folder:
        rows = train(model, data, config, snapshots=(f"{moment}it",), folder=folder).rows
        origin = read_snapshot(folder, moment)
    done: dict[tuple[str, int] | None, Level] = {None: Level(0, "dense", whole, copied(model), rows)}

    for job in jobs:
        parent, chosen = done[job.parent], STARTS[job.start]
        seed = start_seed(job.start, config.seed, steps[job.number - 1])
        model.load_state_dict(parent.state)
        masks = cut(model, parent.masks, rate=p, layer_rates=layer_rates, level=steps[job.number - 1], **how)
        course = Course(config, per_epoch, saving(model, masks, data), rewind_to, finetune)
        sources: dict[str, Callable[[], Any]] = {
            "trained": partial(getattr, parent, "state"),
            "origin": lambda: origin,
            "fresh": partial(drawn, make, seed),
            "masks": partial(Masks, masks),
            "seed": partial(int, seed),
        }
        state, kept = chosen.of(sources)
        model.load_state_dict(state)
        kept.apply_(model)
        fitted = train(model, data, course.settings(chosen.training), masks=kept)
        done[job.start, job.number] = Level(job.number, job.start, kept, copied(model), fitted.rows)
    return list(done.values())


TARGETS: Mapping[str, Sequence[str]] = {"include": ("weights",), "keep": (), "layers": ()}


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's state, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def drawn(make: Callable[[], nn.Module] | None, seed: int) -> dict[str, Tensor]:
    """Return the state of a model newly made; torch's global generator stays as it was."""
    assert make is not None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return copied(make())


def saving(model: nn.Module, masks: Masks, data: Dataset) -> float:
    """Return MACs of the dense model ÷ MACs of what the masks leave."""
    device = next(model.parameters()).device
    example = data.example(1)
    example = (
        {k: v.to(device) for k, v in example.items()} if isinstance(example, dict) else example.to(device)
    )
    found = cost(model, example, masks)
    return found.macs / max(1, found.macs_nonzero)
