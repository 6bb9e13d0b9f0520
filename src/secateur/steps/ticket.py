"""One level of a lottery: a further cut of a run's model, and the start of the remaining weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from torch import nn

from secateur import lottery
from secateur.core.options import MACHINE
from secateur.criteria import CRITERIA, Calibration, sources
from secateur.data import Dataset
from secateur.lottery import STARTS, multiples
from secateur.lottery.cutting import check
from secateur.lottery.levels import RATE, left_of
from secateur.lottery.order import check_shuffled
from secateur.lottery.search import copied
from secateur.lottery.starts import start_seed
from secateur.measure import cost
from secateur.runs.run import Run
from secateur.sparsity.granularity import parse
from secateur.sparsity.targets import prunable
from secateur.steps.base import SAMPLES, Context, require, step
from secateur.steps.cut_records import smaller, tell_sparser
from secateur.steps.cut_settings import TicketSettings, check_settings
from secateur.steps.cutting import CutResult, Cutting, samples
from secateur.steps.dense import Dense
from secateur.steps.extra_options import Options
from secateur.training import Duration


class TicketChoice(TicketSettings):
    """Settings of the cut and the rewinding of a level."""

    layer_rates: Annotated[
        dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
        Field(
            description="multiple of the rate for a layer, as output=0.5: a name, a glob, conv, linear, or output, the "
            "last layer"
        ),
    ] = {}
    rewind_to: Annotated[
        str, Field(description="moment of the dense training to rewind to, as 0it, 500it, 2ep or 3%")
    ] = "0it"
    calibration: Annotated[
        int, Field(ge=1, description="class-balanced training samples for criteria such as taylor")
    ] = 512
    options: Options = {}

    @field_validator("rewind_to", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> str:
        return str(Duration.parse(value))

    @model_validator(mode="after")
    def _validated(self) -> TicketChoice:
        """Refuse invalid settings before any training or data is read."""
        check(self.granularity, self.layer_rates)
        check_settings(self, amount=parse(self.granularity).amount or 0.5)
        return self


@step("ticket")
class Ticket(Cutting, TicketChoice):
    """Cut more of a run's model and restart the rest: one level of a lottery.

    The new run holds masks, or a smaller model, and the initial weights; secateur retrain trains it. secateur lottery
    makes all levels in order.
    """

    makes, measured = "ticket", "before training"

    origin: Annotated[
        str | None,
        Field(description="run folder of the dense training; RUN when left out", json_schema_extra=MACHINE),
    ] = None
    rate: Annotated[
        float, Field(gt=0, lt=1, description="fraction of the remaining weights cut per level")
    ] = RATE
    level: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="level t: (1 − rate)^t of the weights are kept")
    ] = 1.0
    start: Annotated[str, Field(description=f"start of the level: {', '.join(STARTS)}")] = "weights"
    seed: Annotated[int, Field(ge=0, description="seed of all random draws")] = 0

    @classmethod
    def extra_options(cls) -> Mapping[str, str | None]:
        """Return the options of all criteria: --norm, …."""
        return options_of_criteria()

    @field_validator("start")
    @classmethod
    def _start(cls, value: str) -> str:
        STARTS[value]
        return value

    @model_validator(mode="after")
    def _shuffles(self) -> Ticket:
        check_shuffled([self.start], self.granularity)
        pattern = parse(self.granularity)
        require(
            pattern.amount is None or (self.rate, self.level) == (RATE, 1.0),
            f"The pattern {pattern} takes its own fraction at once: leave rate and level out.",
        )
        return self

    def config(self) -> dict[str, Any]:
        """Return the fields of a recipe entry, with the dense run by its folder's name, as for all runs of a recipe."""
        kept = super().config()
        return kept if self.origin is None else {**kept, "origin": Path(self.origin).name}

    def cut(self, run: Run, context: Context) -> CutResult:
        """Cut, and return to the values of the start."""
        trust = self.trust or context.trust
        dense = run if self.origin is None else Run.open(context.at(self.origin))
        require(
            dense.history[0]["weights"] == run.history[0]["weights"],
            f"{dense.folder} is not the training that {run.folder} began with: give --origin the run of that one.",
        )
        model, before = run.load_model(trust=trust)
        shrinks = parse(self.granularity).removes
        looks = CRITERIA[self.criterion].needs_data or "example_inputs" in sources(self.criterion)
        data = self.data_of(run, context) if looks or shrinks else None
        example = run.example(root=context.data_root or self.data_root)
        earlier = self._earlier(run)
        macs = earlier["macs"][0] if earlier else cost(model, example).macs
        units = (
            (earlier["prunable"] - earlier["pruned"], earlier["prunable"]) if earlier and shrinks else None
        )
        found = lottery.subnetwork(model, before, before=units, **self.arguments(data))
        seed = start_seed(self.start, self.seed, self.level)
        whole = cache(lambda: Dense(dense, trust=trust))  # built only for starts that rewind to it
        state, kept = STARTS[self.start].of(
            {
                "trained": lambda: copied(found.model),
                "origin": lambda: found.of(whole().origin(self.rewind_to), whole().build),
                "fresh": lambda: found.of(whole().fresh(seed), whole().build),
                "masks": lambda: found.masks,
                "seed": lambda: seed,
            }
        )
        found.model.load_state_dict(state)
        kept.apply_(found.model)
        result: dict[str, Any] = {
            "requested": self._requested(model),
            "achieved": (found.whole - found.left) / max(1, found.whole),
            "pruned": found.whole - found.left,
            "prunable": found.whole,
            **(smaller(found.pruned) if found.pruned else {}),
            "macs": [macs, cost(found.model, example, kept).macs_nonzero],
        }
        of = f"{self.granularity}s" if shrinks else "prunable weights"
        return CutResult(
            found.model, kept, result, (f"{tell_sparser(result, of)}, starts from {self.start}",)
        )

    def _earlier(self, run: Run) -> Mapping[str, Any]:
        """Return the result of the earlier ticket of this granularity, empty if there is none."""
        cuts = [entry for entry in run.history if entry["do"] == self.do]
        alike = cuts and cuts[-1]["config"].get("granularity", "weight") == self.granularity
        return dict(cuts[-1]["result"]) if alike else {}

    def arguments(self, data: Dataset | None) -> dict[str, Any]:
        """Return the arguments of `secateur.lottery.subnetwork`."""
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
        """Return the requested fraction of all prunable weights."""
        kind = parse(self.granularity)
        if kind.amount is not None:
            return kind.amount
        if kind.removes:
            return 1 - left_of(self.rate, 1.0, self.level)
        targets = prunable(model, self.include, self.keep, self.layers)
        by_layer = multiples(targets, self.layer_rates)
        left = sum(targets[name].numel() * left_of(self.rate, r, self.level) for name, r in by_layer.items())
        return 1 - left / sum(target.numel() for target in targets.values())


def options_of_criteria() -> dict[str, str | None]:
    """Return the options of all criteria, option → help with its criteria and defaults."""
    owners: dict[str, dict[str, Any]] = {}
    for criterion in CRITERIA.values():
        for option, default in criterion.options.items():
            owners.setdefault(option, {})[criterion.name] = default
    return {
        option: f"option of {', '.join(of)} [default: {' or '.join(dict.fromkeys(map(str, of.values())))}]"
        for option, of in owners.items()
    }
