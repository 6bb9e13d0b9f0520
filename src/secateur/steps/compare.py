"""Runs side by side in one table."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from secateur.core.options import MACHINE
from secateur.core.tables import Table
from secateur.report import comparison
from secateur.steps.base import ARGUMENT, Context, DataRoot, Outcome, Step, Trust, step
from secateur.steps.choices import OutputFormat
from secateur.steps.measuring import notes, open_runs, views

Runs = Annotated[
    tuple[str, ...],
    Field(
        min_length=1,
        description="run folders, or folders of them; globs such as 'runs/*' work too",
        json_schema_extra=ARGUMENT,
    ),
]
BatchSizes = Annotated[tuple[int, ...], Field(description="batch sizes to time", json_schema_extra=MACHINE)]


@step("compare")
class Compare(Step):
    """Compare runs in one table.

    Accuracy, sparsity, parameters, MACs, bytes and latency, all measured in one process.
    """

    runs: Runs
    latency: Annotated[bool, Field(description="time the models", json_schema_extra=MACHINE)] = True
    batch_sizes: BatchSizes = (1, 64)
    threads: Annotated[
        int | None, Field(ge=1, description="threads to time with", json_schema_extra=MACHINE)
    ] = None
    data_root: DataRoot = None
    trust: Trust = False
    format: OutputFormat = "text"

    def perform(self, context: Context) -> Outcome:
        """Measure all runs in this process; one row each."""
        seen = views(
            open_runs(self.runs, context),
            latency=self.latency,
            batch_sizes=self.batch_sizes,
            threads=self.threads,
            data_root=context.data_root or self.data_root,
            trust=self.trust or context.trust,
        )
        results, costs = comparison.results(seen), comparison.costs(seen)
        known = {column.key for column in results.columns}
        columns = [*results.columns, *(column for column in costs.columns if column.key not in known)]
        rows = [{**comparison.compared(view), "label": view.name} for view in seen]
        table = Table(columns, rows).without_empty_columns()
        timed = [time for view in seen if view.measurement for time in view.measurement.latencies]
        lines = [*notes([view.measurement for view in seen if view.measurement])]
        if timed:
            lines.append(
                f"Latency: median of one forward pass and its interquartile range, threads: {timed[0].threads}, "
                "models timed in turns."
            )
        return Outcome(tuple(lines), table, table.records())
