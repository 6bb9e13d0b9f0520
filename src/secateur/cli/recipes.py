"""`secateur run` and `secateur demo`: whole roads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.app import app, show
from secateur.recipe import DEMO, perform, read_recipe
from secateur.steps import Context

Root = Annotated[Path, typer.Option("--root", help="Folder below which the recipe's run folders lie.")]
DataRoot = Annotated[str | None, typer.Option("--data-root", help="Folder of the data sets.")]


@app.command("run")
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML).", metavar="RECIPE")],
    root: Root = Path(),
    data_root: DataRoot = None,
    trust: Annotated[bool, typer.Option("--trust", help="Import the user code that runs name.")] = False,
) -> None:
    """Take every step of a recipe; steps already done are skipped."""
    perform(read_recipe(recipe), Context(root, trust, data_root), show)


@app.command("demo")
def demo(root: Annotated[Path, typer.Option("--out", help="Folder to work in.")] = Path("demo")) -> None:
    """Train, analyse, prune, retrain, measure and report a small network on handwritten digits."""
    perform(read_recipe(DEMO), Context(root), show)
    typer.echo(f"Open {root / 'report.html'} in a browser.")
