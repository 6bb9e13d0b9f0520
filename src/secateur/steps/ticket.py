"""One level of a lottery: cut more of a run's model, and let what is left start over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator, model_validator
from torch import nn

from secateur import lottery
from secateur.criteria import CRITERIA, Calibration, sources
from secateur.data import Dataset
from secateur.granularity import parse
from secateur.lottery import STARTS, multiples
from secateur.lottery.cutting import check
from secateur.lottery.pace import RATE, left_of
from secateur.lottery.starts import start_seed
from secateur.measure import cost
from secateur.runs import Run
from secateur.steps.base import MACHINE, SAMPLES, Context, require, step
from secateur.steps.choices import CriterionName
from secateur.steps.cuts import tell_sparser
from secateur.steps.cutting import Cut, Cutting, makes_sense, samples
from secateur.steps.dense import Dense
from secateur.steps.loose import Options
from secateur.targets import prunable
from secateur.training import Duration


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

    @model_validator(mode="after")
    def _makes_sense(self) -> TicketChoice:
        """Find what makes no sense before anything is trained or read."""
        check(self.granularity, self.layer_rates)
        makes_sense(self, amount=parse(self.granularity).amount or 0.5)
        return self


@step("ticket")
class Ticket(Cutting, TicketChoice):
    """Cut more of a run's model and let what is left start over: one level of a lottery.

    The new run holds masks and the weights to start from; secateur retrain trains it. secateur lottery takes all
    levels, one after the other.
    """

    makes, measured = "ticket", "before training"

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

    def cut(self, run: Run, context: Context) -> Cut:
        """Cut, go back."""
        trust = self.trust or context.trust
        dense = run if self.origin is None else Run.open(context.at(self.origin))
        require(
            dense.history[0]["weights"] == run.history[0]["weights"],
            f"{dense.folder} is not the training that {run.folder} began with: give --origin the run of that one.",
        )
        start = STARTS[self.start]
        require(
            ":" not in self.granularity or "seed" not in start.needs,
            f"Shuffled masks keep no pattern {self.granularity}: leave the start {self.start} out.",
        )
        model, before = run.load_model(trust=trust)
        trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        looks = CRITERIA[self.criterion].needs_data or "example_inputs" in sources(self.criterion)
        data = self.data_of(run, context) if looks else None
        masks = lottery.cut(model, before, **self.arguments(data))
        spent = cost(model, run.example(root=context.data_root or self.data_root), masks)
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
        return Cut(model, kept, result, (f"{tell_sparser(result)}, starts from {self.start}",))

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
