"""Standard output and error: what becomes of characters that they can't write, and of streams that are closed."""

from __future__ import annotations

import io
import os
import sys


def lenient_streams() -> None:
    """Let standard output and error replace characters that their encoding lacks; give closed ones a place to go."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, as in secateur … >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def writes_unicode() -> bool:
    """Whether standard output has a form for every character."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
