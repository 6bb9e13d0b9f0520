"""The whole search on a model in memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from secateur.core.brief import Brief
from secateur.core.copying import duplicate
from secateur.core.errors import InputError
from secateur.core.modules import parameters_of
from secateur.core.seeds import same_draws
from secateur.core.validation import sentence
from secateur.data import Dataset
from secateur.data.dataset import each
from secateur.lottery.early import early_stop
from secateur.lottery.order import PlannedTraining, check_finetune, check_shuffled, order
from secateur.lottery.plan import DEFAULT_TARGETS, plan
from secateur.lottery.retraining import Course
from secateur.lottery.starts import STARTS, start_seed
from secateur.lottery.subnetwork import subnetwork
from secateur.measure import cost
from secateur.shrink.apply import apply
from secateur.shrink.plan import Plan
from secateur.sparsity.granularity import parse
from secateur.sparsity.masks import Masks
from secateur.sparsity.targets import prunable
from secateur.training import Duration, TrainConfig, read_snapshot, train
from secateur.training.journal import MetricsRow


@dataclass(frozen=True, repr=False)
class Level(Brief):
    """A trained network: of level `number` (0 is the dense one), from `start`.

    `state` is its trained `state_dict`, on the CPU, and `rows` its log. Of the `counts[1]` prunable weights or units
    of the dense network `counts[0]` are left: those of `masks`, on the CPU, or of the `plan` with which
    `secateur.shrink.apply` shrinks the dense network.
    """

    number: int
    start: str
    masks: Masks
    state: Mapping[str, Tensor]
    rows: Sequence[MetricsRow]
    counts: tuple[int, int] = (1, 1)
    plan: Plan | None = None

    @property
    def left(self) -> float:
        """Fraction of the prunable weights, or units, that is left."""
        return self.counts[0] / max(1, self.counts[1])

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
    """Train `model`, then cut, restart and train, level by level; return all levels, the dense one first.

    The model ends as the last of them. Everything is kept in memory; the step `secateur.steps.Lottery` works in run
    folders and can be resumed.

    Args:
        model: any module that `secateur.train` takes.
        data: a data set from `secateur.data.load`.
        config: settings of the dense training; or its fields as `settings` (epochs=5, lr=0.1, …).
        rate: fraction of the remaining weights cut per level; 0.2 unless it follows from levels and left.
        levels: number of levels.
        left: fraction of the prunable weights, or units, left by the last level; see `pace`.
        layer_rates: multiples of the rate for some layers, such as {"output": 0.5}; see `multiples`.
        one_shot: cut every level from the dense model, instead of from the level before.
        starts: names from `STARTS`.
        rewind_to: moment of the dense training to rewind to, as 2ep, 500it or 3%.
        finetune: epochs of the start none; by default those of the dense training.
        make: function that returns a model like `model`, newly initialised from torch's global generator; required
            by starts such as reinit.
        cuts: other arguments of `subnetwork`: granularity, criterion, scope, include, keep, layers, data, …

    Raises:
        InputError: for an invalid argument.
        ModelError: if the model has nothing to cut, doesn't fit the data, or its training diverges.
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
    check_shuffled(names, how.get("granularity", "weight"))
    if parse(how.get("granularity", "weight")).removes:
        how.setdefault("example_inputs", _example(model, data, 2))
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
    dense = Level(0, "dense", _untouched(model, how), copied(model), rows)
    done: dict[tuple[str, int] | None, Level] = {None: dense}
    macs = _macs(model, Masks({}), data)

    def trained(job: PlannedTraining) -> Level:
        parent, chosen, t = done[job.parent], STARTS[job.start], steps[job.number - 1]
        seed = start_seed(job.start, config.seed, t)
        before = parent.counts if parent.plan else None
        found = subnetwork(
            _network(model, parent),
            parent.masks,
            before=before,
            rate=p,
            level=t,
            layer_rates=layer_rates,
            **how,
        )
        course = Course(
            config, per_epoch, macs / max(1, _macs(found.model, found.masks, data)), rewind_to, finetune
        )
        whole = partial(duplicate, model)
        state, kept = chosen.of(
            {
                "trained": lambda: copied(found.model),
                "origin": lambda: found.of(origin, whole),
                "fresh": lambda: found.of(drawn(make, seed), whole),
                "masks": lambda: found.masks,
                "seed": lambda: seed,
            }
        )
        found.model.load_state_dict(state)
        kept.apply_(found.model)
        rows = train(found.model, data, course.settings(chosen.training), masks=kept).rows
        plan = getattr(found.model, "secateur_plan", None)
        counts = found.left, found.whole
        return Level(job.number, job.start, kept.to("cpu"), copied(found.model), rows, counts, plan)

    for job in jobs:
        done[job.start, job.number] = trained(job)
    *_, last = done.values()
    if last.plan is not None:
        apply(model, last.plan, inplace=True).load_state_dict(last.state)
    return list(done.values())


def _untouched(model: nn.Module, how: Mapping[str, Any]) -> Masks:
    """Return masks that keep all weights; none for units."""
    if parse(how.get("granularity", "weight")).removes:
        return Masks({})
    targets = prunable(model, *(how.get(key, default) for key, default in DEFAULT_TARGETS.items()))
    return Masks({name: torch.ones(tensor.shape, dtype=torch.bool) for name, tensor in targets.items()})


def _network(model: nn.Module, level: Level) -> nn.Module:
    """Return a level's network: the dense `model` with its values or, if units were cut, a smaller copy."""
    network = model if level.plan is None else apply(model, level.plan)
    network.load_state_dict(level.state)
    return network


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's `state_dict`, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def drawn(make: Callable[[], nn.Module] | None, seed: int) -> dict[str, Tensor]:
    """Return the state of `make()` under this seed; torch's global generators are unchanged."""
    assert make is not None
    with same_draws(seed):
        return copied(make())


def _macs(model: nn.Module, masks: Masks, data: Dataset) -> int:
    """Return the MACs per sample at nonzero weights."""
    return cost(model, _example(model, data, 1), masks).macs_nonzero


def _example(model: nn.Module, data: Dataset, samples: int) -> Any:
    device = next(parameters_of(model)).device
    return each(lambda tensor: tensor.to(device), data.example(samples))
