"""The command line: thin; it parses words, calls the library and prints what comes back."""

from secateur.cli.app import main

__all__ = ["main"]
