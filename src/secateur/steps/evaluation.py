"""Measure a run's accuracy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from secateur.core.options import MACHINE
from secateur.core.tables import COUNT, NUMBER, PERCENT, Column, Table
from secateur.runs.run import Run
from secateur.steps.base import Context, DataRoot, In, Outcome, Step, Trust, step
from secateur.steps.choices import OutputFormat
from secateur.training import evaluate


@step("eval")
class Eval(Step):
    """Measure a run's accuracy on a split.

    Top-1, top-5 and loss over all of its samples.
    """

    run: In
    split: Annotated[
        Literal["test", "train"], Field(description="train or test", json_schema_extra=MACHINE)
    ] = "test"
    batch_size: Annotated[int, Field(ge=1, description="batch size", json_schema_extra=MACHINE)] = 500
    data_root: DataRoot = None
    trust: Trust = False
    format: OutputFormat = "text"

    def perform(self, context: Context) -> Outcome:
        """Evaluate and print."""
        run = Run.open(context.at(self.run))
        data = run.load_data(root=context.data_root or self.data_root)
        model, _ = run.load_model(trust=self.trust or context.trust)
        metrics = evaluate(model, data, split=self.split, batch_size=self.batch_size)
        row = {
            "run": run.name,
            "data": data.name,
            "split": self.split,
            "samples": len(data.test if self.split == "test" else data.train),
            **metrics,
        }
        columns = [
            Column("run", "Run"),
            Column("data", "Data"),
            Column("split", "Split"),
            Column("samples", "Samples", COUNT),
            Column("top1", "Top-1", PERCENT),
            Column("top5", "Top-5", PERCENT),
            Column("loss", "Loss", NUMBER),
        ]
        return Outcome(table=Table(columns, [row]), record=row)
