"""Carrying out one task: its step, and the size of the model it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError
from secateur.data import held
from secateur.measure import measure
from secateur.runs.run import RUN_FILE, Run
from secateur.steps import Context
from secateur.steps.base import Stopwatch
from secateur.study.plan import Task

SIZE_FIELDS = ("parameters", "nonzero", "macs", "macs_nonzero", "bytes_compressed")


@dataclass(frozen=True)
class Done:
    """Result of a task: its numbers and texts by name, and its seconds over all attempts."""

    result: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Place:
    """Settings of the workers: those of `Context`, and torch's `threads` per process (None: torch's default)."""

    root: Path
    trust: bool = False
    data_root: str | None = None
    threads: int | None = None


@held()
def carry_out(task: Task, place: Place) -> Done:
    """Perform a task's step, continuing an interrupted attempt, and measure the model it leaves.

    Raises `InputError` for a step without a run folder whose record has no single numbers, and the step's errors.
    """
    import torch

    if place.threads is not None:
        torch.set_num_threads(place.threads)
    watch = Stopwatch()
    outcome = task.step.perform(Context(place.root, place.trust, place.data_root, taken={}))
    if task.folder is None or not (place.root / task.folder / RUN_FILE).exists():
        return Done(_outcome(task, outcome.record), watch.seconds)
    folder = place.root / task.folder
    run = Run.open(folder)
    entry = run.history[-1]
    model, masks = run.load_model(trust=place.trust)
    size = measure(model, run.example(root=place.data_root), masks, latency=False)
    measured = {name: getattr(size, name) for name in SIZE_FIELDS}
    return Done({**numbers(entry["result"], inner=False), **measured}, float(entry["seconds"]))


def _outcome(task: Task, record: Any) -> dict[str, Any]:
    """Return the numbers of a step without a run folder. Raises `InputError` if its record has none."""
    found = numbers(record)
    if record is not None and all(value is None for value in found.values()):
        raise InputError(
            f"secateur {task.step.do} finds no single numbers here, which is what a cell keeps: let it do one thing "
            "in each cell, or leave it out."
        )
    return found


def numbers(record: Any, inner: bool = True) -> dict[str, Any]:
    """Return the numbers and texts of a record by name.

    A change, a list of two numbers, gives the second; a list of one entry counts as the entry, other lists are left
    out. With `inner` (the default), entries of inner mappings are included as "outer.inner".

    >>> numbers({"top1": 0.9, "macs": [100, 50], "barrier": {"test": 0.1}, "rows": [{"alpha": 0.5}, {"alpha": 1.0}]})
    {'top1': 0.9, 'macs': 50, 'barrier.test': 0.1}
    """
    if isinstance(record, list | tuple) and len(record) == 1:
        return numbers(record[0])
    if not isinstance(record, Mapping):
        return {}
    found: dict[str, Any] = {}
    for name, value in record.items():
        if value is None or isinstance(value, int | float | str):
            found[str(name)] = value
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(n, int | float) for n in value):
            found[str(name)] = value[1]
        elif inner:
            found |= {f"{name}.{within}": each for within, each in numbers(value).items()}
    return found
