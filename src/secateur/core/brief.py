"""Values written in a line: what is large is told by its kind and size.

A dataclass that holds models, tensors or long lists is a `Brief`, declared with `repr=False`, so that a console, a
notebook and a debugger show what it is instead of megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROOM = 60
"""Characters of one field."""

BRACKETS: dict[type, tuple[str, str]] = {list: ("[", "]"), tuple: ("(", ")"), dict: ("{", "}")}


class Brief:
    """A dataclass whose `repr` is a line: its fields, those that are large by their kind and size."""

    def __repr__(self) -> str:
        shown = (each.name for each in fields(self) if each.repr)  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={brief(getattr(self, name))}' for name in shown)})"


def brief(value: Any, room: int = ROOM) -> str:
    """Return `value` as Python writes it if that is short, else its kind and size.

    >>> brief({"macs": 0.5}), brief(list(range(100))), brief(torch.zeros(3, 4))
    ("{'macs': 0.5}", 'list of 100', 'float32 [3, 4]')
    """
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, nn.Module | Brief):
        return type(value).__name__
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _collection(value, room)
    if value is None or isinstance(value, bool | int | float | str | Path | torch.dtype):
        written = repr(value)
        return written if len(written) <= room else f"{written[: room - 1]}…"
    return type(value).__name__


def _collection(value: Any, room: int) -> str:
    """Write a collection of a few small things; count the rest."""
    kind = "" if type(value) is dict else type(value).__name__
    whole = f"{kind or 'dict'} of {len(value)}"
    if len(value) > 8:
        return whole
    items = list(value.items() if isinstance(value, Mapping) else ((None, item) for item in value))
    parts = [brief(item) if key is None else f"{brief(key)}: {brief(item)}" for key, item in items]
    opening, closing = BRACKETS.get(type(value), (f"{kind}(", ")"))
    written = opening + ", ".join(parts) + ("," if type(value) is tuple and len(value) == 1 else "") + closing
    return written if len(written) <= room else whole
