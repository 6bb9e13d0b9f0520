"""The safe pruning rate of a run, with its charts."""

from __future__ import annotations

from secateur.analysis import safe_rate
from secateur.core.environment import command_line
from secateur.core.files import write_json
from secateur.core.tables import Column, Table
from secateur.runs.run import SAFE_RATE_FILE, Run
from secateur.steps.base import Context, In, Outcome, Step, Trust, step
from secateur.steps.choices import OutputFormat


@step("safe-rate")
class SafeRateStep(Step):
    """Find the safe pruning rate of a run.

    The rate of global magnitude pruning after Mason-Williams and Dahlqvist 2024, computed from the weights alone; the
    charts (PNG, SVG) and the numbers (JSON) are saved in the run folder.
    """

    run: In
    trust: Trust = False
    format: OutputFormat = "text"

    def perform(self, context: Context) -> Outcome:
        """Analyse and draw."""
        from secateur.report import charts, sections

        run = Run.open(context.at(self.run))
        model, _ = run.load_model(trust=self.trust or context.trust)
        found = safe_rate(model)
        record = found.to_json()
        charts.save(charts.front(record), run.folder / "safe_rate")
        if found.kurtoses:
            charts.save(charts.kurtosis(record), run.folder / "kurtosis")
        write_json(run.folder / SAFE_RATE_FILE, {**record, "weights": run.weights, "command": command_line()})
        row = {"run": run.name, **record}
        lines = [
            *found.notes,
            f"Charts and numbers: {run.folder}/safe_rate.png, .svg, .json and kurtosis.png, .svg",
        ]
        return Outcome(
            tuple(lines), Table([Column("run", "Run"), *sections.SAFE_RATE_COLUMNS], [row]), record
        )
