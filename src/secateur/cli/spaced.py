"""Lists written with spaces: --groups 1 2 3."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from typer.core import TyperCommand


class Spaced(TyperCommand):
    """A command that takes nothing but options: words after the value of a list belong to the list."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words, every list's option repeated for each of its values."""
        lists = {flag for entry in self.params if getattr(entry, "multiple", False) for flag in entry.opts}
        return super().parse_args(ctx, list(repeated(args, lists)))


def repeated(words: Sequence[str], lists: Collection[str]) -> Iterator[str]:
    """Yield the words, with the option of a list before each of its values.

    >>> list(repeated(["--groups", "1", "2", "--seed", "0"], {"--groups"}))
    ['--groups', '1', '--groups', '2', '--seed', '0']
    """
    flag, values = "", 0
    for word in words:
        name, equals, _ = word.partition("=")
        if word.startswith("-"):
            flag, values = (name if name in lists else ""), bool(equals)
        elif flag:
            if values:
                yield flag
            values += 1
        yield word
