"""Cut a run's model into a new run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from secateur.analysis import SafeRate, safe_rate
from secateur.compensation import COMPENSATIONS
from secateur.criteria import CRITERIA, Calibration, sources
from secateur.pruning.api import prune
from secateur.runs.run import Run
from secateur.sparsity.granularity import parse
from secateur.steps.base import SAMPLES, Context, require, step
from secateur.steps.choices import AmountCheck, CriterionName, registered
from secateur.steps.cut_records import plain, smaller, sparser, tell_smaller, tell_sparser
from secateur.steps.cutting import CutResult, Cutting, makes_sense, samples
from secateur.steps.extra_options import Options, options_of_cuts


@step("prune")
class Prune(Cutting):
    """Cut a run's model into a new run.

    Removes the least important weights, channels, heads or layers by the criterion, as many as the amount, or the
    budget, and the scope say. Weights are set to zero; all others are cut out, which makes the model smaller.
    """

    makes, measured = "cut", "as cut"
    amount: Annotated[
        float | Literal["safe", "optimum"] | None,
        AmountCheck,
        Field(description="fraction to remove, or safe or optimum: the rates secateur safe-rate finds"),
    ] = None
    budget: Annotated[
        dict[str, float] | None,
        Field(
            description="instead of an amount, what may be left: macs=0.5, params=0.5, or latency_ms=3.5 and batch=1; "
            "channels, heads"
        ),
    ] = None
    granularity: Annotated[
        str, Field(description="weight, channel, head, layer, or a pattern N:M such as 2:4")
    ] = "weight"
    criterion: CriterionName = "magnitude"
    scope: Annotated[
        str,
        Field(
            description="for weights global, local, erk or lamp; for channels and heads global, local or isomorphic"
        ),
    ] = "global"
    max_amount: Annotated[
        float, Field(ge=0, le=1, description="largest fraction of one group that may go; channels, heads")
    ] = 1.0
    round_to: Annotated[
        int | None,
        Field(ge=1, description="leave a multiple of so many units in each group; channels, heads"),
    ] = None
    reduction: Annotated[
        str,
        Field(
            description="how a unit's tensors are brought together: mean, sum, max or first; channels, heads"
        ),
    ] = "mean"
    normalization: Annotated[
        str,
        Field(
            description="what scores are divided by to compare groups: mean, max, l2 or none; channels, heads"
        ),
    ] = "mean"
    per_cost: Annotated[
        bool,
        Field(description="divide scores by what a unit costs, in MACs or in the budget's; channels, heads"),
    ] = False
    compensation: Annotated[
        str,
        registered(COMPENSATIONS),
        Field(description="what makes up for what goes; secateur compensations lists them"),
    ] = "drop"
    correct: Annotated[
        bool | None,
        Field(
            description="take back what the cut does to means and variances inside the model; when left out, for "
            "channels and heads wherever samples are looked at"
        ),
    ] = None
    include: Annotated[
        tuple[str, ...],
        Field(description="roles that may be cut: weights, biases, norms, embeddings, others, all"),
    ] = ("weights",)
    keep: Annotated[tuple[str, ...], Field(description="layer to leave alone, by name or glob")] = ()
    layers: Annotated[
        tuple[str, ...], Field(description="cut only this layer, by name or glob, or this group, by name")
    ] = ()
    rounds: Annotated[
        int | None,
        Field(
            ge=1,
            description="score what is left so many times, each time cutting a part; when left out the criterion's own "
            "number for weights and patterns, else 1",
        ),
    ] = None
    schedule: Annotated[
        str, Field(description="how the density falls from round to round: exponential or linear")
    ] = "exponential"
    allow_empty: Annotated[bool, Field(description="let layers lose all their weights")] = False
    calibration: Annotated[
        int,
        Field(
            ge=1,
            description="training samples that criteria such as taylor and compensations such as reconstruct look at, "
            "class-balanced",
        ),
    ] = 512
    seed: Annotated[
        int, Field(ge=0, description="seed of criteria that draw at random, and of the training samples")
    ] = 0
    options: Options = {}

    @classmethod
    def loose_options(cls) -> dict[str, str]:
        """Return the options of all criteria and compensations: --norm, --damping and the like."""
        return options_of_cuts()

    @model_validator(mode="after")
    def _makes_sense(self) -> Prune:
        """Find what makes no sense before anything is trained or read."""
        named = isinstance(self.amount, str)
        require(
            not named or not parse(self.granularity).shrinks,
            f"The {self.amount} rate is one of weights: give the {self.granularity} cut a number or a budget.",
        )
        makes_sense(self, amount=0.5 if named else self.amount)
        return self

    def cut(self, run: Run, context: Context) -> CutResult:
        """Score, spread, cut."""
        model, masks = run.load_model(trust=self.trust or context.trust)
        shrinks = parse(self.granularity).shrinks
        compensation = COMPENSATIONS[self.compensation]
        calibrates = CRITERIA[self.criterion].needs_data or compensation.needs_data or bool(self.correct)
        exampled = shrinks or "example_inputs" in sources(self.criterion)
        data = self.data_of(run, context) if exampled or calibrates else None
        calibration = None
        if data is not None and calibrates:
            calibration = Calibration(samples(data, self.calibration, self.seed))
        amount = self.amount
        if isinstance(amount, str):
            analysis: SafeRate = safe_rate(model)
            amount = analysis.safe if amount == "safe" else analysis.optimum
        pruned = prune(
            model,
            data.example(SAMPLES) if data is not None and exampled else None,
            amount=amount,
            budget=self.budget,
            granularity=self.granularity,
            criterion=self.criterion,
            scope=self.scope,
            include=self.include,
            keep=self.keep,
            layers=self.layers,
            max_amount=self.max_amount,
            round_to=self.round_to,
            reduction=self.reduction,
            normalization=self.normalization,
            per_cost=self.per_cost,
            compensation=self.compensation,
            correct=self.correct,
            masks=masks,
            rounds=self.rounds,
            schedule=self.schedule,
            allow_empty=self.allow_empty,
            data=calibration,
            seed=self.seed,
            inplace=True,
            **self.options,
        )
        result: dict[str, Any] = {"requested": pruned.requested, "achieved": pruned.achieved}
        result |= smaller(pruned) if shrinks else sparser(pruned)
        if calibration is not None:
            result["calibration"] = {"seed": self.seed, **calibration.to_json()}
        if pruned.compensated:
            result["compensated"] = plain(pruned.compensated)
        lines = [tell_smaller(result, self.granularity) if shrinks else tell_sparser(result)]
        if isinstance(self.amount, str) and "all" not in self.include:
            lines.append(
                f"The {self.amount} rate counts all parameters; here it was applied to the role "
                f"{', '.join(self.include)} only: --include all cuts as it is defined."
            )
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
