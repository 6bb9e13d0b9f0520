"""The whole search on a model of one's own, in memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from secateur.data import Dataset
from secateur.errors import InputError
from secateur.lottery.course import Course
from secateur.lottery.cutting import cut
from secateur.lottery.early import early_stop
from secateur.lottery.order import Job, check_finetune, order
from secateur.lottery.plan import TARGETS, plan
from secateur.lottery.starts import STARTS, start_seed
from secateur.masks import Masks
from secateur.measure import cost
from secateur.seeds import same_draws
from secateur.targets import prunable
from secateur.training import Duration, TrainConfig, read_snapshot, train
from secateur.training.journal import Row
from secateur.validation import sentence


@dataclass(frozen=True)
class Level:
    """A network that was trained: of level `number` (0 is the dense one), from `start`.

    `masks` say what is left and `state` is its trained `state_dict`, both on the CPU; `rows` is its log.
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
    if make is None:
        for name in names:
            if "fresh" in STARTS[name].needs:
                raise InputError(f"The start {name} draws new weights: pass make=, which makes a new model.")
    p, steps = plan(model, rate=rate, levels=levels, left=left, layer_rates=layer_rates, **how)
    jobs = list(order(names, len(steps), one_shot))
    check_finetune(names, finetune)
    per_epoch = math.ceil(len(data.train) / config.batch_size)
    total = per_epoch * config.epochs
    moment = Duration.parse(rewind_to).iterations(per_epoch, total)
    if moment >= total:
        raise InputError(
            f"There is no going back to {rewind_to}: the training ends after {total} iterations."
        )
    with tempfile.TemporaryDirectory() as folder:
        rows = train(model, data, config, snapshots=(f"{moment}it",), folder=folder).rows
        origin = read_snapshot(folder, moment)
    targets = prunable(model, *(how.get(key, default) for key, default in TARGETS.items()))
    whole = Masks({name: torch.ones(tensor.shape, dtype=torch.bool) for name, tensor in targets.items()})
    done: dict[tuple[str, int] | None, Level] = {None: Level(0, "dense", whole, copied(model), rows)}

    def trained(job: Job) -> Level:
        parent, chosen, t = done[job.parent], STARTS[job.start], steps[job.number - 1]
        seed = start_seed(job.start, config.seed, t)
        model.load_state_dict(parent.state)
        masks = cut(model, parent.masks, rate=p, layer_rates=layer_rates, level=t, **how)
        course = Course(config, per_epoch, saving(model, masks, data), rewind_to, finetune)
        state, kept = chosen.of(
            {
                "trained": lambda: parent.state,
                "origin": lambda: origin,
                "fresh": lambda: drawn(make, seed),
                "masks": lambda: masks,
                "seed": lambda: seed,
            }
        )
        model.load_state_dict(state)
        kept.apply_(model)
        rows = train(model, data, course.settings(chosen.training), masks=kept).rows
        return Level(job.number, job.start, kept.to("cpu"), copied(model), rows)

    for job in jobs:
        done[job.start, job.number] = trained(job)
    return list(done.values())


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's state, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def drawn(make: Callable[[], nn.Module] | None, seed: int) -> dict[str, Tensor]:
    """Return the state of a model newly made; global generators stay as they were."""
    assert make is not None
    with same_draws(seed):
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
