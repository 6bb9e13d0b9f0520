"""The command `secateur`: its own options, and how a call of it ends. It knows the commands by name only."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any, TextIO

import typer

from secateur.cli.group import ListedGroup
from secateur.cli.streams import lenient_streams
from secateur.core.environment import VERSION
from secateur.core.errors import SecateurError, SecateurWarning
from secateur.core.visible import visible

UsageProblem: Any = typer.BadParameter.__mro__[2]
"""typer's base of all mistakes on the command line: its own, or click's where it builds on click."""

INTERRUPTED = 130
"""The exit code after a Ctrl-C."""

app = typer.Typer(
    name="secateur",
    cls=ListedGroup,
    help="Prune neural networks: train, cut, retrain, measure, compare, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"secateur {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
    version_only: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and stop.")
    ] = False,
) -> None:
    """Prune neural networks: train, cut, retrain, measure, compare, report."""
    if quiet:
        os.environ["SECATEUR_QUIET"] = "1"


def main() -> None:
    """Run the command line and leave with its exit code: 0, or 2 with one sentence for a user's mistake."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.showwarning = _warn
    lenient_streams()
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except SecateurError as error:
        _stop(str(error), 2)
    except UsageProblem as error:
        message = error.format_message() or "say what to do; secateur --help lists the commands."
        if message.lstrip().startswith("Usage:"):  # nothing was asked for, and this is the whole help
            print(visible(message), file=sys.stderr)
            sys.exit(2)
        _stop(" ".join(message.split()), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _stop(f"cannot write the output: {error.strerror or error}; send it elsewhere.", 2)
    except MemoryError:
        _stop("the memory is used up: choose a smaller batch size, model or data subset.", 2)
    if code == INTERRUPTED:  # by typer, which takes a Ctrl-C for a wish to leave
        _stop("stopped; give the same command again to continue.", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning of ours as its sentence, any other the usual way."""
    ours = issubclass(category, SecateurWarning)
    text = (
        f"secateur: {message}\n"
        if ours
        else warnings.formatwarning(message, category, filename, lineno, line)
    )
    (file or sys.stderr).write(visible(text))


def _stop(message: str, code: int) -> None:
    print(visible(f"secateur: {message}"), file=sys.stderr)
    sys.exit(code)
