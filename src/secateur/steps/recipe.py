"""Recipes: a sequence of steps in one YAML file.

    secateur: 1
    steps:
    - {do: train, model: convnet, data: digits, epochs: 15, out: dense}
    - for:
        criterion: [magnitude, random]
        amount: [0.5, 0.9]
      steps:
      - {do: prune, run: dense, criterion: "{criterion}", amount: "{amount}", out: "{criterion}-{amount}"}
      - {do: retrain, run: "{criterion}-{amount}"}
    - {do: report, runs: ["*"], out: report.html}

A step is the name of a command and its options, dashes as underscores. `for` repeats its steps for every
combination of the listed values; {name} is replaced by the value, a value that is nothing else keeps its type. The
keys of a listed mapping are variables too. Instead of a list, 1..4 stands for the integers from 1 to 4, and 1..0 for
none. Completed steps are skipped, so that an interrupted recipe is resumed.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError
from secateur.core.files import read_text
from secateur.core.plain_yaml import parse_yaml
from secateur.core.seeds import same_draws
from secateur.data import held
from secateur.runs.history import RECIPE_VERSION
from secateur.steps import STEPS, Context, Outcome, Step

DEMO = Path(__file__).parent / "demo.yaml"
HOLE = re.compile(r"\{(\w+)\}")
MOST_COMBINATIONS = 100_000
"""Largest number of combinations of one `for`."""
RANGE = re.compile(r"(\d{1,15})\.\.(\d{1,15})")
MOST_STEPS = 100_000
"""Largest number of steps of a recipe, its loops expanded."""


def run(
    path: str | Path, root: str | Path = ".", *, data_root: str | None = None, trust: bool = False
) -> list[Outcome]:
    """Perform every step of the recipe file `path`, with run folders below `root`; completed steps are skipped.

    `data_root` is the folder of the data sets, `trust` allows runs to name user code (package.module:factory).
    Returns the outcome of each step. Raises the errors of the steps, `InputError` for an invalid recipe.
    """
    return perform(read_recipe(path), Context(Path(root), trust, data_root))


def read_recipe(path: str | Path) -> list[Step]:
    """Return the validated steps of a recipe file. Raises `InputError` with the invalid step."""
    content = read_yaml(path)
    if isinstance(content, Mapping) and "study" in content:
        raise InputError(f"{path} is a study: run it with secateur study run {path}.")
    return parse_recipe(content, str(path))


def read_yaml(path: str | Path) -> Any:
    """Return the content of a YAML file. Raises `InputError` with the line of a syntax error."""
    return parse_yaml(read_text(path), str(path))


def parse_recipe(
    content: Any, source: str = "the recipe", values: Mapping[str, Any] | None = None
) -> list[Step]:
    """Return the validated steps of a recipe's content, in order, with every `for` expanded.

    Each {name} is replaced by its value in `values`.
    """
    if not isinstance(content, Mapping) or "steps" not in content or not isinstance(content["steps"], list):
        raise InputError(
            f"{source} is no recipe: it needs the keys secateur: {RECIPE_VERSION} and steps: with a list."
        )
    if content.get("secateur") != RECIPE_VERSION:
        raise InputError(
            f"{source} has the version {content.get('secateur')}: this secateur reads secateur: {RECIPE_VERSION}."
        )
    if unknown := [str(key) for key in content if key not in ("secateur", "steps")]:
        way = "secateur study run takes it" if unknown == ["study"] else "leave it out"
        raise InputError(f"{source} has the key {unknown[0]}, which a recipe has not: {way}.")
    steps = []
    for number, entry in enumerate(_expand(content["steps"], values or {}, source), start=1):
        where = f"Step {number} of {source}"
        if number > MOST_STEPS:
            raise InputError(f"{source} has more than {MOST_STEPS:,} steps: divide it.")
        if "do" not in entry:
            raise InputError(f"{where} does not say what to do: add do: with one of {', '.join(STEPS)}.")
        fields = {str(key).replace("-", "_"): value for key, value in entry.items() if key != "do"}
        try:
            steps.append(STEPS[str(entry["do"])](**fields))
        except InputError as error:
            raise InputError(f"{where} ({entry['do']}): {error}") from None
    return steps


def combinations(loops: Any, source: str) -> Iterator[dict[str, Any]]:
    """Yield every combination of listed values as name → value, including the keys of listed mappings."""
    if not isinstance(loops, Mapping):
        raise InputError(f"{source} has a grid that does not map names to lists of values.")
    choices = [_choices(name, value, source) for name, value in loops.items()]
    if (count := math.prod(map(len, choices))) > MOST_COMBINATIONS:
        raise InputError(
            f"{source} has a grid of {count:,} combinations, and {MOST_COMBINATIONS:,} is the most: divide it."
        )
    for combination in itertools.product(*choices):
        values: dict[str, Any] = {}
        for name, choice in zip(loops, combination, strict=True):
            own = named(name, choice)
            if twice := sorted(own.keys() & values.keys()):
                raise InputError(f"{source} gives {twice[0]} twice in one grid: leave one of them out.")
            values |= own
        yield values


def named(name: str, choice: Any) -> dict[str, Any]:
    """Return the variables of a value of `name`: the keys of a mapping, with `name` as their values joined.

    >>> named("way", {"criterion": "magnitude", "scope": "lamp"})
    {'way': 'magnitude, lamp', 'criterion': 'magnitude', 'scope': 'lamp'}
    """
    if not isinstance(choice, Mapping):
        return {name: choice}
    return {name: ", ".join(map(str, choice.values())), **choice}


def _choices(name: Any, value: Any, source: str) -> Sequence[Any]:
    """Return the values of a variable: a list, or the integers of FIRST..LAST."""
    if not isinstance(name, str) or not name.isidentifier():
        raise InputError(
            f"{source} has a variable {name!r} in a grid: name it with letters, digits and underscores."
        )
    if isinstance(value, list):
        return value
    if isinstance(value, str) and (ends := RANGE.fullmatch(value)):
        return range(int(ends[1]), int(ends[2]) + 1)
    raise InputError(f"{source} has {name}: {value!r} in a grid: give a list of values, or numbers as 1..4.")


def perform(
    steps: Sequence[Step], context: Context, show: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Perform the steps in order, call `show` with each outcome, and return all outcomes."""
    outcomes = []
    context = replace(context, taken={})
    with held():
        for step in steps:
            with same_draws():
                outcome = step.perform(context)
            show(outcome)
            outcomes.append(outcome)
    return outcomes


def _expand(entries: Any, values: Mapping[str, Any], source: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a list, with `values` inserted and loops expanded."""
    if not isinstance(entries, list):
        raise InputError(
            f"{source} has steps that are no list ({entries!r}): write steps: and a list of them."
        )
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise InputError(f"{source} has a step that is no mapping ({entry!r}): write - {{do: …}}.")
        if "for" not in entry:
            yield {key: _fill(value, values, source) for key, value in entry.items()}
            continue
        for combination in combinations(_fill(entry["for"], values, source), source):
            inner = {**values, **combination}
            yield from _expand(entry.get("steps") or [], inner, source)


def _fill(value: Any, values: Mapping[str, Any], source: str) -> Any:
    """Replace {name} in a value; a value of nothing but {name} takes the type of the variable."""
    if isinstance(value, list):
        return [_fill(item, values, source) for item in value]
    if isinstance(value, Mapping):
        if len(value) == 1 and value == {(name := next(iter(value))): None} and name in values:
            raise InputError(
                f'{source} has {{{name}}} without quotes, a mapping in YAML: write "{{{name}}}".'
            )
        return {key: _fill(item, values, source) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    for name in HOLE.findall(value):
        if name not in values:
            raise InputError(f"{source} uses {{{name}}}, which neither a for: around it nor a study defines.")
    whole = HOLE.fullmatch(value)
    return values[whole[1]] if whole else HOLE.sub(lambda match: str(values[match[1]]), value)
