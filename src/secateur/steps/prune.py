"""Cut a run's model into a new run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from secateur.analysis import SafeRate, safe_rate
from secateur.criteria import CRITERIA
from secateur.prune import prune
from secateur.runs import Run
from secateur.steps.base import (
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
from secateur.training import evaluate


@step("prune")
class Prune(Step):
    """Cut a run's model into a new run.

    Removes the least important weights by the criterion, as many as the amount and the scope say.
    """

    run: In
    out: Out
    amount: Annotated[
        float | Literal["safe", "optimum"] | None,
        Field(description="fraction to remove, or safe or optimum: the rates secateur safe-rate finds"),
    ] = None
    granularity: Annotated[str, Field(description="weight, or a pattern N:M such as 2:4")] = "weight"
    criterion: Annotated[str, Field(description="criterion; secateur criteria lists them")] = "magnitude"
    scope: Annotated[str, Field(description="global, local, erk or lamp")] = "global"
    include: Annotated[
        tuple[str, ...],
        Field(description="roles that may be cut: weights, biases, norms, embeddings, others, all"),
    ] = ("weights",)
    keep: Annotated[tuple[str, ...], Field(description="layer to leave alone, by name or glob")] = ()
    layers: Annotated[tuple[str, ...], Field(description="cut only this layer, by name or glob")] = ()
    seed: Annotated[int, Field(ge=0, description="seed of criteria that draw at random")] = 0
    options: Annotated[dict[str, Any], Field(description="option of the criterion, as name=value")] = {}
    data_root: DataRoot = None
    evaluate: Evaluate = True
    overwrite: Overwrite = False
    trust: Trust = False

    @classmethod
    def loose_options(cls) -> dict[str, str]:
        """Return the options of all criteria: --norm and the like."""
        return {
            option: f"option of the criterion {criterion.name} [default: {default}]"
            for criterion in CRITERIA.values()
            for option, default in criterion.options.items()
        }

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, values: Any) -> Any:
        """Let the options of criteria (norm, …) stand beside the other keys of a recipe."""
        if not isinstance(values, dict):
            return values
        loose = {key: value for key, value in values.items() if key in cls.loose_options()}
        rest = {key: value for key, value in values.items() if key not in loose}
        return {**rest, "options": {**(rest.get("options") or {}), **loose}} if loose else rest

    def perform(self, context: Context) -> Outcome:
        """Score, spread, cut, measure, keep."""
        run = Run.open(context.at(self.run))
        folder = context.at(self.out)
        require(
            folder.resolve() != run.folder.resolve(), f"{folder} is the run to prune: choose another --out."
        )
        planned = [*context.past(run), self.identity()]
        context.comes_to(folder, planned)
        if is_done(folder, planned, self.overwrite):
            return Outcome((f"{folder} holds this cut already; --overwrite repeats it.",))
        context.check_present(run)
        watch = Stopwatch()
        model, masks = run.load_model(trust=self.trust or context.trust)
        amount = self.amount
        if isinstance(amount, str):
            analysis: SafeRate = safe_rate(model)
            amount = analysis.safe if amount == "safe" else analysis.optimum
        pruned = prune(
            model,
            amount=amount,
            granularity=self.granularity,
            criterion=self.criterion,
            scope=self.scope,
            include=self.include,
            keep=self.keep,
            layers=self.layers,
            masks=masks,
            seed=self.seed,
            inplace=True,
            **self.options,
        )
        result: dict[str, Any] = {
            "requested": pruned.requested,
            "achieved": pruned.achieved,
            "pruned": pruned.masks.pruned,
            "prunable": pruned.masks.total,
        }
        if self.evaluate:
            data = run.load_data(root=context.data_root or self.data_root)
            result |= evaluate(pruned.model, data)
        run.record(
            pruned.model,
            pruned.masks,
            {"do": self.do, "config": self.config()},
            result,
            watch.seconds,
            folder,
        )
        accuracy = f", top-1 {percent(result['top1'])} as cut" if self.evaluate else ""
        lines = [
            f"{folder}: removed {pruned.masks.pruned:,} of {pruned.masks.total:,} prunable weights "
            f"({percent(pruned.achieved)}, requested {percent(pruned.requested)}){accuracy}"
        ]
        if isinstance(self.amount, str) and "all" not in self.include:
            lines.append(
                f"The {self.amount} rate counts all parameters; here it was applied to the role "
                f"{', '.join(self.include)} only: --include all cuts as it is defined."
            )
        lines += [f"{name} was left alone: {reason}." for name, reason in pruned.skipped.items()]
        return Outcome(tuple(lines), record={"run": str(folder), **result})
