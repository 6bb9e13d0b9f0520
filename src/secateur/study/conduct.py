"""The main loop of a study: submit ready tasks to the engine until all are done, and store each result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.core.files import locked
from secateur.runs.run import RUN_FILE
from secateur.steps import Context
from secateur.study.engines import Engine
from secateur.study.plan import GridCell, Study, Task
from secateur.study.store import Results
from secateur.study.work import Done, Place


@dataclass
class Standing:
    """Progress of a study by task key: `done` with results, `running`, and `failed` with the reason.

    A task that needs a failed one is not tried and not in `failed`; its cell is lost too.
    """

    study: Study
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    running: dict[str, Task] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def finished(self) -> list[GridCell]:
        """Return the cells whose tasks are all done."""
        return [cell for cell in self.study.cells if all(key in self.done for key in cell.tasks.values())]

    def lost(self) -> list[tuple[GridCell, str, str]]:
        """Return the cells with a failed task, each with the failed step's name in the table and the reason."""
        return [
            (cell, *next((step, self.failed[key]) for step, key in cell.tasks.items() if key in self.failed))
            for cell in self.study.cells
            if any(key in self.failed for key in cell.tasks.values())
        ]

    def redo_lost(self, root: Path) -> None:
        """Remove from `done` the tasks with a missing run folder that an unfinished task needs."""
        for key, task in reversed(list(self.study.tasks.items())):
            if key not in self.done:
                for need in task.needs:
                    folder = self.study.tasks[need].folder
                    if folder is not None and not (root / folder / RUN_FILE).exists():
                        self.done.pop(need, None)

    def next(self) -> Task | None:
        """Return the first task that is not started and whose needs are done; None without one."""
        for key, task in self.study.tasks.items():
            untouched = key not in self.done and key not in self.running and key not in self.failed
            if untouched and all(need in self.done for need in task.needs):
                return task
        return None


def conduct(
    study: Study, place: Place, engine: Engine, show: Callable[[Standing], None] = lambda standing: None
) -> Standing:
    """Carry out the unfinished tasks of a study and return its progress; `show` is called after every change.

    Failed tasks don't raise: they are in `failed`. Raises `StoreError` if another process is at work on a study in the
    same folder, `InputError` if a model is user code and `place` does not trust it.
    """
    trusted = Context(place.root, place.trust, taken={})
    for planned in study.tasks.values():
        trusted.check_code(str(getattr(planned.step, "model", "")))
    with locked(place.root):
        results = Results(place.root)
        standing = Standing(study, results.tasks(list(study.tasks)))
        standing.redo_lost(place.root)
        try:
            results.keep_plan(study.name, [cell.key for cell in study.cells])
            kept = results.cells(study.name)
            _keep_cells(results, standing, kept)
            while True:
                while engine.free > 0 and (task := standing.next()) is not None:
                    standing.running[task.key] = task
                    engine.submit(task)
                show(standing)
                if not standing.running:
                    break
                for task, result in engine.finished():
                    del standing.running[task.key]
                    if isinstance(result, Done):
                        results.keep_task(task.key, task.step.do, result.result, result.seconds)
                        standing.done[task.key] = {**result.result, "seconds": result.seconds}
                    else:
                        results.keep_failure(task.key, task.step.do, str(result))
                        standing.failed[task.key] = str(result)
                _keep_cells(results, standing, kept)
            names = dict.fromkeys(name for cell in study.cells for name in cell.values)
            results.show(list(names), columns(standing))
        finally:
            engine.close()
            results.close()
    return standing


def columns(standing: Standing) -> Mapping[str, tuple[str, str]]:
    """Return the columns of the results: name, such as "retrain.top1", → (step, number)."""
    return {
        f"{step}.{number}": (step, number)
        for cell in standing.study.cells
        for step, key in cell.tasks.items()
        for number in standing.done.get(key, {})
    }


def _keep_cells(results: Results, standing: Standing, kept: dict[str, dict[str, Any]]) -> None:
    """Add to the results, and to `kept`, the finished cells that are missing or have other variables there."""
    for cell in standing.finished():
        values = dict(cell.values)
        if kept.get(cell.key) != values:
            results.keep_cell(cell.key, standing.study.name, values, cell.tasks)
            kept[cell.key] = values
