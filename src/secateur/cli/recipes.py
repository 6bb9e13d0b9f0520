"""`secateur run` and `secateur demo`: all steps of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.output import say, show
from secateur.steps import Context
from secateur.steps.recipe import DEMO, perform, read_recipe

RecipeRootOption = Annotated[
    Path, typer.Option("--root", help="Folder below which the recipe's run folders lie.")
]
DataRootOption = Annotated[str | None, typer.Option("--data-root", help="Folder of the data sets.")]


def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML).", metavar="RECIPE")],
    root: RecipeRootOption = Path(),
    data_root: DataRootOption = None,
    trust: Annotated[bool, typer.Option("--trust", help="Import the user code that runs name.")] = False,
) -> None:
    """Take every step of a recipe.

    Steps already done are skipped, so an interrupted recipe continues where it stopped.
    """
    perform(read_recipe(recipe), Context(root, trust, data_root), show)


def demo(root: Annotated[Path, typer.Option("--out", help="Folder to work in.")] = Path("demo")) -> None:
    """Run the demo on handwritten digits.

    Trains a small network, finds its safe rate, prunes it three ways, retrains, measures and writes a report.
    """
    perform(read_recipe(DEMO), Context(root), show)
    say(f"Open {root / 'report.html'} in a browser.")


RECIPE_COMMANDS: dict[str, Callable[..., None]] = {"run": run, "demo": demo}
