"""Carry out one task, in whatever process: its step, and what is left of the model in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.data import held
from secateur.measure import measure
from secateur.runs import ABOUT, Run
from secateur.steps import Context
from secateur.steps.base import Stopwatch
from secateur.study.plan import Task

MEASURED = ("parameters", "nonzero", "macs", "macs_nonzero", "bytes_compressed")


@dataclass(frozen=True)
class Done:
    """What came of a task: its numbers and texts by name, and the seconds it took in all its attempts."""

    result: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Place:
    """Where tasks work: as in `Context`, and `threads` that torch may use in this process."""

    root: Path
    trust: bool = False
    data_root: str | None = None
    threads: int | None = None


@held()
def carry_out(task: Task, place: Place) -> Done:
    """Take a task's step, going on where an earlier attempt was interrupted."""
    import torch

    if place.threads is not None:
        torch.set_num_threads(place.threads)
    watch = Stopwatch()
    outcome = task.step.perform(Context(place.root, place.trust, place.data_root, taken={}))
    if task.folder is None:
        return Done(_numbers(outcome.record), watch.seconds)
    folder = place.root / task.folder
    if not (folder / ABOUT).exists():
        return Done(_numbers(outcome.record), watch.seconds)
    run = Run.open(folder)
    entry = run.history[-1]
    model, masks = run.load_model(trust=place.trust)
    size = measure(model, run.example(root=place.data_root), masks, latency=False)
    measured = {name: getattr(size, name) for name in MEASURED}
    return Done({**_numbers(entry["result"]), **measured}, float(entry["seconds"]))


def _numbers(record: Any) -> dict[str, Any]:
    """Return what of a record is one number or text; of a change from one number to another, the second."""
    if not isinstance(record, Mapping):
        return {}
    found = {}
    for name, value in record.items():
        if (
            isinstance(value, list)
            and len(value) == 2
            and all(isinstance(each, int | float) for each in value)
        ):
            found[str(name)] = value[1]
        elif value is None or isinstance(value, int | float | str):
            found[str(name)] = value
    return found
