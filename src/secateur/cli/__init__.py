"""The command line: thin; it parses words, calls the library and prints what comes back."""

from secateur.core.extras import need

for _package in ("typer", "rich"):
    need(_package, for_="The command line")

from secateur.cli.app import main

__all__ = ["main"]
