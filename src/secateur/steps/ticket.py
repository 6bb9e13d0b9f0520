"""One level of a lottery: cut more of a run's model, and let what is left start over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator
from torch import nn

from secateur.criteria import CRITERIA, Calibration, sources
from secateur.data import Dataset
from secateur.granularity import parse
from secateur.lottery import STARTS, cut, multiples
from secateur.lottery.cutting import check
from secateur.lottery.pace import RATE, left_of
from secateur.lottery.starts import start_seed
from secateur.measure import cost
from secateur.runs import Run
from secateur.steps.base import (
    MACHINE,
    SAMPLES,
    Context,
    DataRoot,
    Evaluate,
    In,
    Out,
    Outcome,
    Overwrite,
    Step,
    Stopwatch,
    Trust,
    is_done,
    percent,
    require,
    step,
)
from secateur.steps.choices import CriterionName
from secateur.steps.cuts import tell_sparser
from secateur.steps.dense import Dense
from secateur.steps.loose import Options
from secateur.steps.prune import samples
from secateur.targets import prunable
from secateur.training import Duration, evaluate


class TicketChoice(BaseModel):
    """What is cut at a level, by which rule, and how far it goes back."""

    layer_rates: Annotated[
        dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
        Field(
            description="multiple of the rate for a layer, as output=0.5: a name, a glob, conv, linear, or output, the "
            "last layer"
        ),
    ] = {}
    rewind_to: Annotated[
        str, Field(description="moment of the dense training to go back to, as 0it, 500it, 2ep or 3%")
    ] = "0it"
    granularity: Annotated[str, Field(description="weight, or a pattern N:M such as 2:4")] = "weight"
    criterion: CriterionName = "magnitude"
    scope: Annotated[str, Field(description="global, local, erk or lamp")] = "global"
    include: Annotated[
        tuple[str, ...],
        Field(description="roles that may be cut: weights, biases, norms, embeddings, others, all"),
    ] = ("weights",)
    keep: Annotated[tuple[str, ...], Field(description="layer to leave alone, by name or glob")] = ()
    layers: Annotated[tuple[str, ...], Field(description="cut only this layer, by name or glob")] = ()
    calibration: Annotated[
        int, Field(ge=1, description="training samples that criteria such as taylor look at, class-balanced")
    ] = 512
    options: Options = {}

    @field_validator("rewind_to", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> str:
        return str(Duration.parse(value))


@step("ticket")
class Ticket(Step, TicketChoice):
    """Cut more of a run's model and let what is left start over: one level of a lottery.

    The new run holds masks and the weights to start from; secateur retrain trains it. secateur lottery takes all
    levels, one after the other.
    """

    run: In
    out: Out
    origin: Annotated[
        str | None,
        Field(description="run folder of the dense training; RUN when left out", json_schema_extra=MACHINE),
    ] = None
    rate: Annotated[float, Field(gt=0, lt=1, description="fraction of what is left that a level takes")] = (
        RATE
    )
    level: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="t, where (1 − rate)^t of the dense weights stay")
    ] = 1.0
    start: Annotated[str, Field(description=f"what to start from: {', '.join(STARTS)}")] = "weights"
    seed: Annotated[int, Field(ge=0, description="seed of what is drawn at random")] = 0
    data_root: DataRoot = None
    evaluate: Evaluate = True
    overwrite: Overwrite = False
    trust: Trust = False

    @classmethod
    def loose_options(cls) -> dict[str, str]:
        """Return the options of all criteria: --norm and the like."""
        return options_of_criteria()

    @field_validator("start")
    @classmethod
    def _start(cls, value: str) -> str:
        STARTS[value]
        return value

    def config(self) -> dict[str, Any]:
        """Return what the recipe keeps: the dense run by its own name, as all runs go there."""
        kept = super().config()
        return kept if self.origin is None else {**kept, "origin": Path(self.origin).name}

    def perform(self, context: Context) -> Outcome:
        """Cut, go back, keep."""
        run = Run.open(context.at(self.run))
        folder = context.at(self.out)
        require(
            folder.resolve() != run.folder.resolve(), f"{folder} is the run to cut: choose another --out."
        )
        planned = [*context.past(run), self.identity()]
        context.comes_to(folder, planned)
        if is_done(folder, planned, self.overwrite):
            return Outcome((f"{folder} holds this ticket already; --overwrite repeats it.",))
        context.check_present(run)
        watch, trust = Stopwatch(), self.trust or context.trust
        root = context.data_root or self.data_root
        dense = run if self.origin is None else Run.open(context.at(self.origin))
        require(
            dense.history[0]["weights"] == run.history[0]["weights"],
            f"{dense.folder} is not the training that {run.folder} began with: give --origin the run of that one.",
        )
        check(self.granularity, self.layer_rates)
        start = STARTS[self.start]
        require(
            ":" not in self.granularity or "seed" not in start.needs,
            f"Shuffled masks keep no pattern {self.granularity}: leave the start {self.start} out.",
        )
        model, before = run.load_model(trust=trust)
        trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        data = run.load_data(root=root) if self._looks else None
        masks = cut(model, before, **self.arguments(data))
        spent = cost(model, run.example(root=root), masks)
        seed = start_seed(self.start, self.seed, self.level)
        state, kept = start.of(
            {
                "trained": lambda: trained,
                "origin": lambda: Dense(dense, trust=trust).origin(self.rewind_to),
                "fresh": lambda: Dense(dense, trust=trust).fresh(seed),
                "masks": lambda: masks,
                "seed": lambda: seed,
            }
        )
        model.load_state_dict(state)
        kept.apply_(model)
        result: dict[str, Any] = {
            "requested": self._requested(model),
            "achieved": kept.sparsity,
            "pruned": kept.pruned,
            "prunable": kept.total,
            "macs": [spent.macs, spent.macs_nonzero],
        }
        if self.evaluate:
            result |= evaluate(model, data if data is not None else run.load_data(root=root), progress=False)
        entry = {"do": self.do, "config": self.config()}
        run.record(model, kept, entry, result, watch.seconds, folder)
        accuracy = f", top-1 {percent(result['top1'])} before training" if self.evaluate else ""
        line = f"{folder}: {tell_sparser(result)}, starts from {self.start}{accuracy}"
        return Outcome((line,), record={"run": str(folder), **result})

    def arguments(self, data: Dataset | None) -> dict[str, Any]:
        """Return the arguments of `secateur.lottery.cut`."""
        names = (
            "rate",
            "level",
            "layer_rates",
            "granularity",
            "criterion",
            "scope",
            "include",
            "keep",
            "layers",
            "seed",
        )
        calibrated = data is not None and CRITERIA[self.criterion].needs_data
        return {
            **{name: getattr(self, name) for name in names},
            "example_inputs": None if data is None else data.example(SAMPLES),
            "data": Calibration(samples(data, self.calibration, self.seed)) if data and calibrated else None,
            **self.options,
        }

    @property
    def _looks(self) -> bool:
        """Whether data are needed."""
        named = "example_inputs" in sources(self.criterion)
        return named or CRITERIA[self.criterion].needs_data or self.evaluate

    def _requested(self, model: nn.Module) -> float:
        """Return the fraction that was to go of all weights that may be cut."""
        pattern = parse(self.granularity).amount
        if pattern is not None:
            return pattern
        targets = prunable(model, self.include, self.keep, self.layers)
        by_layer = multiples(targets, self.layer_rates)
        left = sum(targets[name].numel() * left_of(self.rate, r, self.level) for name, r in by_layer.items())
        return 1 - left / sum(target.numel() for target in targets.values())


def options_of_criteria() -> dict[str, str]:
    """Return the options of all criteria, with the criteria that have them and their defaults, as help."""
    owners: dict[str, dict[str, Any]] = {}
    for criterion in CRITERIA.values():
        for option, default in criterion.options.items():
            owners.setdefault(option, {})[criterion.name] = default
    return {
        option: f"option of {', '.join(of)} [default: {' or '.join(dict.fromkeys(map(str, of.values())))}]"
        for option, of in owners.items()
    }
