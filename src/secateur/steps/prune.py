"""Pruning of a run's model into a new run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from secateur.analysis import SafeRate, safe_rate
from secateur.compensation import COMPENSATIONS
from secateur.criteria import CRITERIA, Calibration, sources
from secateur.pruning.api import prune_by
from secateur.pruning.settings import DEAD
from secateur.runs.run import Run
from secateur.sparsity.granularity import parse
from secateur.steps.base import SAMPLES, Context, require, step
from secateur.steps.choices import AmountCheck
from secateur.steps.cut_records import plain, smaller, sparser, tell_smaller, tell_sparser
from secateur.steps.cut_settings import PruneSettings, check_settings, settings_of
from secateur.steps.cutting import CutResult, Cutting, samples
from secateur.steps.extra_options import Options, options_of_cuts


@step("prune")
class Prune(Cutting, PruneSettings):
    """Cut a run's model into a new run.

    Removes the least important weights, channels, heads or layers by the criterion; the amount, or the budget, and the
    scope determine their numbers. Weights are set to zero; channels, heads and layers are removed from the model.
    """

    makes, measured = "cut", "as cut"
    amount: Annotated[
        float | dict[str, float] | Literal["safe", "optimum", "dead"] | None,
        AmountCheck,
        Field(
            description="fraction to remove, or safe or optimum: the rates of secateur safe-rate; dead: exactly the "
            "channels or heads that are zero or masked; or fractions by layer or group, as conv1=0.25, "
            "with * for all others"
        ),
    ] = None
    calibration: Annotated[
        int,
        Field(
            ge=1,
            description="class-balanced training samples for criteria such as taylor and compensations such as "
            "reconstruct",
        ),
    ] = 512
    seed: Annotated[int, Field(ge=0, description="seed of random criteria and of the training samples")] = 0
    options: Options = {}

    @classmethod
    def extra_options(cls) -> Mapping[str, str | None]:
        """Return the options of all criteria and compensations: --norm, --damping, …."""
        return options_of_cuts()

    @field_validator("amount", "units", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """Take numbers, those of the items of a Sequential, as names."""
        return {str(name): each for name, each in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="before")
    @classmethod
    def _dead(cls, values: Any) -> Any:
        """Take the criterion dead as the amount dead."""
        if (
            isinstance(values, dict)
            and values.get("criterion") == DEAD
            and values.get("amount") in (None, DEAD)
        ):
            return {**{k: v for k, v in values.items() if k != "criterion"}, "amount": DEAD}
        return values

    @model_validator(mode="after")
    def _validated(self) -> Prune:
        """Refuse invalid settings before any data is read."""
        named = self.amount in ("safe", "optimum")
        require(
            not named or not parse(self.granularity).removes,
            f"The {self.amount} rate is one of weights: give the {self.granularity} cut a number or a budget.",
        )
        check_settings(self, amount=0.5 if named else self.amount)
        return self

    def cut(self, run: Run, context: Context) -> CutResult:
        """Score, allocate and cut."""
        model, masks = run.load_model(trust=self.trust or context.trust)
        shrinks = parse(self.granularity).removes
        compensation = COMPENSATIONS[self.compensation]
        calibrates = CRITERIA[self.criterion].needs_data or compensation.needs_data or bool(self.correct)
        exampled = shrinks or "example_inputs" in sources(self.criterion)
        data = self.data_of(run, context) if exampled or calibrates else None
        calibration = None
        if data is not None and calibrates:
            calibration = Calibration(samples(data, self.calibration, self.seed))
        amount = self.amount
        if isinstance(amount, str) and amount != DEAD:
            analysis: SafeRate = safe_rate(model)
            amount = analysis.safe if amount == "safe" else analysis.optimum
        settings = settings_of(self, amount=amount, masks=masks, data=calibration, inplace=True)
        pruned = prune_by(model, data.example(SAMPLES) if data is not None and exampled else None, settings)
        result: dict[str, Any] = {"requested": pruned.requested, "achieved": pruned.achieved}
        result |= smaller(pruned) if shrinks else sparser(pruned)
        if calibration is not None:
            result["calibration"] = {"seed": self.seed, **calibration.to_json()}
        if pruned.compensated:
            result["compensated"] = plain(pruned.compensated)
        lines = [tell_smaller(result, self.granularity) if shrinks else tell_sparser(result)]
        if self.amount in ("safe", "optimum") and "all" not in self.include:
            lines.append(
                f"The {self.amount} rate counts all parameters; here it was applied to the role "
                f"{', '.join(self.include)} only: --include all cuts as it is defined."
            )
        lines += pruned.notes
        left = pruned.compensated.get("left", {})
        lines += [f"Nothing made up for what went of {name}: {reason}." for name, reason in left.items()]
        if not shrinks:
            lines += [f"{name} was left alone: {reason}." for name, reason in pruned.skipped.items()]
            spared = [name for name, count in pruned.redistributed.items() if count > 0]
            if spared:
                lines.append(
                    f"So that no layer is empty, the best weight of {', '.join(spared)} stayed, "
                    "and others went instead."
                )
        return CutResult(pruned.model, pruned.masks, result, tuple(lines))
