"""A study's cells in numbers, by name, and their states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from secateur.core.errors import InputError
from secateur.core.tables import PERCENT, Column, Format, Table
from secateur.study.conduct import Standing

Flat: TypeAlias = Mapping[str, Any]
"""One finished cell: its variables, and its numbers as "step.number"."""

REPEATS = ("seed", "repeat")
"""Variables that repeat a measurement, unless chosen as rows or columns."""


def flat(standing: Standing) -> list[Flat]:
    """Return the finished cells in the study's order.

    Each step that writes a model also has its `compression` (parameters of the first model ÷ nonzero parameters of
    this one) and `speedup` (the same of multiply-accumulates). "end.number" is the number of the last step that has
    it, for cells of different numbers of steps.
    """
    return [_flat(cell.values, cell.tasks, standing.done) for cell in standing.finished()]


def _flat(values: Flat, tasks: Mapping[str, str], done: Mapping[str, Flat]) -> Flat:
    found, ends = dict(values), dict[str, Any]()
    first: Flat | None = None
    for step, key in tasks.items():
        numbers = dict(done[key])
        if "nonzero" in numbers:
            first = numbers if first is None else first
            numbers["compression"] = first["parameters"] / max(1, numbers["nonzero"])
            numbers["speedup"] = first["macs"] / max(1, numbers["macs_nonzero"])
        found |= {f"{step}.{name}": value for name, value in numbers.items()}
        ends |= numbers
    return found | {f"end.{name}": value for name, value in ends.items()}


def state(standing: Standing) -> Table:
    """Return a table of all cells with their states and the last top-1 of finished ones.

    The state of a lost cell names its failed step and the reason.
    """
    lost = {id(cell): f"failed at {step}: {reason}" for cell, step, reason in standing.lost()}
    rows = []
    for number, cell in enumerate(standing.study.cells):
        found = [standing.done[key] for key in cell.tasks.values() if key in standing.done]
        left = len(cell.tasks) - len(found)
        row = {name: str(value) for name, value in cell.values.items()} | {"number": number}
        row["state"] = lost.get(id(cell), f"{left} of {len(cell.tasks)} steps to do" if left else "done")
        tops = [each["top1"] for each in found if each.get("top1") is not None]
        rows.append(row | ({"top1": tops[-1]} if tops and not left else {}))
    columns = [
        Column("number", "cell", Format(str)),
        *(Column(name, name.replace("_", " ")) for name in standing.study.variables),
        Column("state", "state"),
        Column("top1", "top-1", PERCENT),
    ]
    return Table(columns, rows).without_empty_columns()


def default_value(cells: Sequence[Flat]) -> str:
    """Return the name of the top-1 measured last. Raises `InputError` if no step measured any."""
    names = [name for cell in cells for name in cell if name.endswith(".top1") and name != "end.top1"]
    if not names:
        raise InputError("No step of the study measures top1: say which number with --value.")
    return names[-1] if all(names[-1] in cell for cell in cells) else "end.top1"
