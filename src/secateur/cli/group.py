"""A group of commands that imports them when one is called: the list of them is there without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from typer.core import TyperCommand, TyperGroup

from secateur.cli.listed import LISTED_COMMANDS


class Commands(Mapping[str, Any]):
    """Name → command, for every name of the list. What makes the commands, and so torch, is imported by the first."""

    def __getitem__(self, name: str) -> Any:
        if name not in LISTED_COMMANDS:
            raise KeyError(name)
        from secateur.cli.commands import COMMANDS

        return COMMANDS[name]

    def __iter__(self) -> Iterator[str]:
        return iter(LISTED_COMMANDS)

    def __len__(self) -> int:
        return len(LISTED_COMMANDS)


class ListedGroup(TyperGroup):
    """The commands of the list, which help and a mistyped name are answered from."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "commands": None})
        self.commands: Any = Commands()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse a mistyped command at once: parsing options imports pydantic."""
        if args and not args[0].startswith("-") and args[0] not in LISTED_COMMANDS:
            self.resolve_command(ctx, args)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list."""
        named = [TyperCommand(name, help=line) for name, line in LISTED_COMMANDS.items()]
        TyperGroup(commands=named).format_commands(ctx, formatter)
