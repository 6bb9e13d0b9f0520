"""The command `secateur`: one sub-command per step, plus lists of what there is to choose from."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.measure import Measurement

from secateur.cli.options import command_of
from secateur.environment import version
from secateur.errors import InputError, SecateurError
from secateur.steps import STEPS, Context, Outcome, Step
from secateur.tables import Table

UsageProblem: Any = typer.BadParameter.__mro__[2]
"""typer's base of all mistakes on the command line: its own, or click's where it builds on click."""

FORMATS = ("text", "json", "csv", "markdown")
WIDE = 10_000

app = typer.Typer(
    name="secateur",
    help="Prune neural networks: train, cut, retrain, measure, compare, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
    version_only: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Prune neural networks: train, cut, retrain, measure, compare, report."""
    if quiet:
        os.environ["SECATEUR_QUIET"] = "1"
    if version_only:
        print(f"secateur {version('secateur')}")
        raise typer.Exit


def show(outcome: Outcome, format: str = "text") -> None:
    """Print what a step has to say on standard output, in one of `FORMATS`."""
    if format not in FORMATS:
        raise InputError(f"There is no format '{format}': choose {', '.join(FORMATS)}.")
    if format == "json":
        print(json.dumps(outcome.record, indent=2, ensure_ascii=False))
    elif format == "csv" and outcome.table is not None:
        print(outcome.table.csv(), end="")
    elif format == "markdown" and outcome.table is not None:
        print(outcome.table.markdown())
    else:
        if outcome.table is not None:
            _print_table(outcome.table)
        for line in outcome.lines:
            print(line)


def _print_table(table: Table) -> None:
    """Print a table in full: turned on its side where the terminal is too narrow for its columns."""
    console = Console(highlight=False)
    needed = Measurement.get(console, console.options.update(max_width=WIDE), table.rich()).maximum
    if console.is_terminal and needed > console.width and 1 < len(table.rows) <= 4:
        table = table.transposed()
    console.width = max(console.width, needed) if not console.is_terminal else console.width
    console.print(table.rich())


def perform(step: Step) -> None:
    """Do one step in the working folder and print its outcome."""
    show(step.perform(Context()), getattr(step, "format", "text"))


def main() -> None:
    """Run the command line and leave with its exit code: 0, or 2 with one sentence for a user's mistake."""
    from secateur.cli import listings, recipes  # noqa: F401  (they register)

    try:
        code = app(standalone_mode=False)
    except SecateurError as error:
        _stop(str(error), 2)
    except UsageProblem as error:
        message = error.format_message() or "say what to do; secateur --help lists the commands."
        _stop(" ".join(message.split()), 2)
    except (KeyboardInterrupt, typer.Abort):
        _stop("stopped; give the same command again to continue.", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        _stop("the memory is used up: choose a smaller batch size, model or data subset.", 2)
    sys.exit(code if isinstance(code, int) else 0)


def _stop(message: str, code: int) -> None:
    print(f"secateur: {message}", file=sys.stderr)
    sys.exit(code)


for _step in STEPS.values():
    app.command(_step.do)(command_of(_step, perform))
