"""`secateur study`: run a grid, see where it stands, read it as a table, write it as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.output import say, show
from secateur.core.errors import InputError
from secateur.steps import Outcome
from secateur.study import Place, Results, Standing, conduct, read_study
from secateur.study.engines import ENGINES
from secateur.study.pivot import pivot
from secateur.study.progress import board
from secateur.study.report import page
from secateur.study.summary import flat, state

app = typer.Typer(
    name="study",
    help="A grid of recipes: run it, see where it stands, read what came of it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[Path, typer.Argument(help="Study file (YAML).", metavar="STUDY", show_default=False)]
StudyRootOption = Annotated[
    Path | None,
    typer.Option("--root", help="Folder to work in; beside the file and named after it when left out."),
]
StudyFormatOption = Annotated[str, typer.Option("--format", help="text, json, csv, markdown or latex")]
ShownValueOption = Annotated[
    str | None, typer.Option(help="Number to show, as step.number; the last step's top1 when left out.")
]
Baseline = Annotated[
    str | None, typer.Option(help="Value of the first row variable to compare all others with, pair by pair.")
]


@app.command()
def run(
    study: File,
    root: StudyRootOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes to work in; one for each processor when left out.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads torch may use in each; 1 with several workers.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for many machines")] = "local",
    data_root: Annotated[str | None, typer.Option("--data-root", help="Folder of the data sets.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Import the user code that models name.")] = False,
) -> None:
    """Do all cells of a study that are not done yet.

    Each result is kept as it comes, so a study that was interrupted goes on, inside a cell too.
    """
    planned = read_study(study)
    made = ENGINES[engine]
    place = Place(_root(study, root).resolve(), trust, data_root, threads or (None if workers == 1 else 1))
    with board() as drawn:
        standing = conduct(planned, place, made(place, workers), drawn.show)
    count = f"{len(standing.finished())} of {len(planned.cells)} cells are done"
    say(f"{_root(study, root)}: {count}")
    if lost := standing.lost():
        cell, step, reason = lost[0]
        values = ", ".join(f"{name} {value}" for name, value in cell.values.items())
        raise InputError(
            f"{len(lost)} cell{'s' * (len(lost) != 1)} failed, the first ({values}) at {step} with: {reason} "
            "Mend what is wrong and give the same command again: it tries them again. To have a run made anew, delete "
            "its folder first."
        )


@app.command()
def status(study: File, root: StudyRootOption = None, format: StudyFormatOption = "text") -> None:
    """Show which cells of a study are done."""
    table = state(_standing(study, root))
    done = sum(row["state"] == "done" for row in table.rows)
    show(Outcome((f"{done} of {len(table.rows)} cells are done",), table, table.records()), format)


@app.command()
def table(
    study: File,
    root: StudyRootOption = None,
    rows: Annotated[list[str] | None, typer.Option(help="Variable whose values are rows.")] = None,
    columns: Annotated[str | None, typer.Option(help="Variable whose values are columns.")] = None,
    value: ShownValueOption = None,
    baseline: Baseline = None,
    against: Annotated[
        str | None, typer.Option(help="A cost, such as retrain.nonzero: marks rows that none beats.")
    ] = None,
    format: StudyFormatOption = "text",
) -> None:
    """Show what came of a study, with spread over repeats."""
    standing = _standing(study, root)
    found = pivot(
        flat(standing),
        list(standing.study.variables),
        rows=[name.strip() for each in rows or () for name in each.split(",")],
        columns=columns,
        value=value,
        baseline=baseline,
        against=against,
    )
    lost = len(standing.lost())
    missing = len(standing.study.cells) - len(standing.finished()) - lost
    lines = [f"{missing} cells are not done yet."] if missing else []
    lines += [f"{lost} cells failed; secateur study status tells why."] if lost else []
    show(Outcome(tuple(lines), found, found.records()), format)


@app.command()
def report(
    study: File,
    root: StudyRootOption = None,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("study.html"),
    value: ShownValueOption = None,
    baseline: Baseline = None,
    charts: Annotated[
        Path | None, typer.Option("--charts", help="Folder to write the chart to, as SVG and PNG.")
    ] = None,
) -> None:
    """Write what came of a study as one HTML file that works offline."""
    size = page(_standing(study, root), study, out, value=value, baseline=baseline, charts=charts)
    say(f"{out}: report of the study ({size / 1e6:.2f} MB)")


def _root(study: Path, root: Path | None) -> Path:
    return study.with_suffix("") if root is None else root


def _standing(study: Path, root: Path | None) -> Standing:
    planned = read_study(study)
    results = Results.existing(_root(study, root))
    try:
        done = results.tasks(list(planned.tasks))
        failed = results.failures([key for key in planned.tasks if key not in done])
        return Standing(planned, done, failed=failed)
    finally:
        results.close()
