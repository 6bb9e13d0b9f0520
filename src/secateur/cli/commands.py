"""The commands themselves: one for each step, lists of what there is to choose from, recipes, studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand

from secateur.cli import listings, recipes, studies
from secateur.cli.options import command_of, has_arguments
from secateur.cli.output import show
from secateur.cli.spaced import Spaced
from secateur.steps import STEPS, Step


def perform(step: Step) -> None:
    """Do one step in the working folder and print its outcome."""
    show(step(), getattr(step, "format", "text"))


def _made() -> Mapping[str, Any]:
    app = typer.Typer(rich_markup_mode=None)
    for step in STEPS.values():
        app.command(step.do, cls=TyperCommand if has_arguments(step) else Spaced)(command_of(step, perform))
    for name, listing in listings.LISTING_COMMANDS.items():
        app.command(name)(listing)
    for name, recipe_command in recipes.RECIPE_COMMANDS.items():
        app.command(name)(recipe_command)
    app.add_typer(studies.app, name="study")
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


COMMANDS = _made()
"""Name → command; `LISTED_COMMANDS` names the same, in the same order."""
