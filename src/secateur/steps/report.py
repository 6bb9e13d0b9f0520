"""Report of runs as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from secateur.core.environment import command_line, environment
from secateur.core.errors import InputError
from secateur.core.files import write_text
from secateur.core.options import MACHINE
from secateur.core.progress import track
from secateur.report import sections
from secateur.report.content import ReportContent
from secateur.runs.history import steps_of, write_recipe
from secateur.runs.run import Run
from secateur.steps.base import Context, DataRoot, Outcome, Step, Trust, step
from secateur.steps.compare import BatchSizes, Runs
from secateur.steps.measuring import open_runs, views


@step("report")
class Report(Step):
    """Write a report of runs as one HTML file.

    The page works offline; the recipe that reproduces all its runs is written beside it.
    """

    runs: Runs
    out: Annotated[str, Field(min_length=1, description="HTML file to write", json_schema_extra=MACHINE)] = (
        "report.html"
    )
    charts: Annotated[
        str | None,
        Field(description="folder to write the page's charts to, as SVG and PNG", json_schema_extra=MACHINE),
    ] = None
    title: Annotated[str, Field(description="title of the page", json_schema_extra=MACHINE)] = (
        "Pruning report"
    )
    latency: Annotated[bool, Field(description="time the models", json_schema_extra=MACHINE)] = True
    batch_sizes: BatchSizes = (1, 64)
    data_root: DataRoot = None
    trust: Trust = False

    def perform(self, context: Context) -> Outcome:
        """Measure, draw and write."""
        from secateur.report.charts import save
        from secateur.report.html import render

        runs = open_runs(self.runs, context)
        out = context.at(self.out)
        seen = views(
            runs,
            latency=self.latency,
            batch_sizes=self.batch_sizes,
            data_root=context.data_root or self.data_root,
            trust=self.trust or context.trust,
        )
        recipe = write_recipe([*merged(runs), self._entry(runs)])
        again = out.with_suffix(".yaml")
        content = ReportContent(
            title=self.title,
            recipe=recipe,
            command=command_line() or f"secateur run {again.name} --root again",
            environment=environment(),
            runs=seen,
        )
        page = render(content)
        write_text(out, page)
        write_text(again, recipe)
        if self.charts is not None:
            figures = sections.figures(content)
            for figure in track(figures, "draw", len(figures)):
                save(figure.chart, context.at(self.charts) / figure.key)
        size = len(page.encode()) / 1e6
        return Outcome((f"{out}: report of {len(runs)} runs ({size:.2f} MB); {again} is its recipe",))

    def _entry(self, runs: Sequence[Run]) -> dict[str, Any]:
        return {
            "do": self.do,
            "runs": [run.name for run in runs],
            "out": Path(self.out).name,
            "title": self.title,
        }


def merged(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Return the steps that make all `runs`, shared ones once."""
    runs = list(runs)
    steps: list[dict[str, Any]] = []
    folders: dict[str, Path] = {}
    for run in runs:
        if folders.setdefault(run.name, run.folder) != run.folder:
            raise InputError(
                f"{folders[run.name]} and {run.folder} have one name: rename one, recipes go by names."
            )
        own = steps_of(run.history)
        if run.safe_rate() is not None:
            own.append({"do": "safe-rate", "run": run.name})
        steps += [entry for entry in own if entry not in steps]
    return steps
