"""Reading of a study file into cells and tasks, each task once.

    secateur: 1
    study:
      seed: [0, 1, 2]
      criterion: [magnitude, random]
      amount: [0.5, 0.9]
    steps:
    - {do: train, model: convnet, data: digits, epochs: 5, seed: "{seed}", out: dense}
    - {do: prune, run: dense, criterion: "{criterion}", amount: "{amount}", out: cut}
    - {do: retrain, run: cut, epochs: 2}

Every combination of the variables is a *cell*; its steps are a recipe of its own. A step with all steps before it
is a *task*, and its key is a hash of their settings. So cells share tasks: here the dense network is trained once for
each seed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError
from secateur.steps import Step
from secateur.steps.recipe import combinations, parse_recipe, read_yaml

RUNS = "runs"
"""Folder below a study's root of its tasks' run folders, each named by its task's key."""


@dataclass(frozen=True)
class Task:
    """One step with its run folders set; `needs` are the keys of the tasks whose runs it reads.

    `folder` is its own run folder below the root; None for a step without one.
    """

    key: str
    step: Step
    needs: tuple[str, ...]
    folder: str | None


@dataclass(frozen=True)
class GridCell:
    """One combination of the variables: `tasks` maps each step's name in the table to its task's key."""

    key: str
    values: Mapping[str, Any]
    tasks: Mapping[str, str]


@dataclass(frozen=True)
class Study:
    """A study: the variables with their values, the cells, and the tasks by their keys.

    Keys of values that are mappings are in the cells' `values`, but not in `variables`.
    """

    name: str
    variables: Mapping[str, tuple[Any, ...]]
    cells: tuple[GridCell, ...]
    tasks: Mapping[str, Task]


def read_study(path: str | Path) -> Study:
    """Read a study file. Raises `InputError` for an invalid one, naming the fault."""
    source = str(path)
    content = read_yaml(path)
    grid = content.get("study") if isinstance(content, Mapping) else None
    if not isinstance(grid, Mapping) or not grid:
        raise InputError(
            f"{source} is no study: it needs a key study: with variables and lists of their values."
        )
    tasks: dict[str, Task] = {}
    cells = []
    if taken := sorted({"key", "study"} & grid.keys()):
        raise InputError(
            f"{source} has a variable {taken[0]}, as the table of results has: call it something else."
        )
    recipe = {key: value for key, value in content.items() if key != "study"}
    for values in combinations(grid, source):
        steps = parse_recipe(recipe, source, values)
        cells.append(_cell(values, steps, tasks, source))
    if not cells:
        raise InputError(f"{source} has no cells: give each variable at least one value.")
    _check_apart(cells, source)
    variables = {name: _seen(cells, name) for name in grid}
    return Study(Path(path).stem, variables, tuple(cells), tasks)


def _cell(values: Mapping[str, Any], steps: list[Step], tasks: dict[str, Task], source: str) -> GridCell:
    """Return a cell, its tasks added to `tasks`."""
    left: dict[str, str] = {}  # name of a run folder in the recipe → key of the last task that wrote it
    named: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for step in steps:
        task = _task(step, left, source)
        tasks.setdefault(task.key, task)
        counts[step.do] += 1
        named[step.do + (str(counts[step.do]) if counts[step.do] > 1 else "")] = task.key
    if not named:
        raise InputError(f"{source} has no steps: say what each cell is to do.")
    return GridCell(_hash(list(named.values())), values, named)


def _task(step: Step, left: dict[str, str], source: str) -> Task:
    """Return a step as a task, and record the run it writes in `left`."""
    fields = type(step).model_fields
    if "runs" in fields:
        raise InputError(
            f"{source}: {step.do} looks at several runs, and a cell is one: secateur study table and report compare; "
            "for the levels of a lottery write ticket and retrain."
        )
    given = {name: getattr(step, name) for name in step.model_fields_set}
    reads = {
        name: left[value]
        for name, value in given.items()
        if isinstance(value, str) and fields[name].json_schema_extra and name != "out" and value in left
    }
    if "run" in given and given["run"] is not None and "run" not in reads:
        raise InputError(f"{source}: {step.do} reads {given['run']}, which no step before it makes.")
    key = _hash([step.identity(), reads])
    folder = f"{RUNS}/{key}" if "out" in fields else None
    if folder is not None:
        left[str(given.get("out") or given.get("run"))] = key
        given["out"] = folder
    filled = type(step)(**{**given, **{name: f"{RUNS}/{read}" for name, read in reads.items()}})
    return Task(key, filled, tuple(dict.fromkeys(reads.values())), folder)


def _check_apart(cells: list[GridCell], source: str) -> None:
    """Raise `InputError` if two cells have the same tasks."""
    seen: dict[str, GridCell] = {}
    for cell in cells:
        same = seen.setdefault(cell.key, cell)
        if same is not cell:
            names = [name for name in cell.values if cell.values[name] != same.values.get(name)]
            one, other = (", ".join(f"{name} {each.values[name]}" for name in names) for each in (same, cell))
            same_cells = (
                f"{one} and {other}" if names else ", ".join(f"{n} {v}" for n, v in cell.values.items())
            )
            raise InputError(
                f"{source} has cells that do the same, {same_cells}: a value is listed twice or used by no step."
            )


def _seen(cells: list[GridCell], name: str) -> tuple[Any, ...]:
    found: list[Any] = []
    for cell in cells:
        if name in cell.values and cell.values[name] not in found:
            found.append(cell.values[name])
    return tuple(found)


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
