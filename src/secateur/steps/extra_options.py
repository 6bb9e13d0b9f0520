"""Options of criteria and compensations beside a step's own fields: --norm, --damping, …."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from secateur.compensation import COMPENSATIONS, Compensation
from secateur.core.options import options_of
from secateur.criteria import CRITERIA
from secateur.pruning.settings import RENAMED

POWER_OF_TEN = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert texts such as 1e-3, which YAML reads as a word, to numbers."""
    return {
        name: float(value) if isinstance(value, str) and POWER_OF_TEN.fullmatch(value) else value
        for name, value in options.items()
    }


Options = Annotated[
    dict[str, Any],
    AfterValidator(_numbers),
    Field(description="option of the criterion or the compensation, as name=value"),
]


def options_of_cuts() -> dict[str, str | None]:
    """Return the options of all criteria and compensations, each with its owners and its default.

    Renamed options are included without a help text, so that the error message gives the new name.
    """
    owners: dict[str, dict[tuple[str, str], Any]] = {}
    for criterion in CRITERIA.values():
        for option, default in criterion.options.items():
            owners.setdefault(option, {})["criterion", criterion.name] = default
    for compensation in COMPENSATIONS.values():
        for label, elements in meanings(compensation).items():
            for option, default in options_of(compensation.functions[elements]).items():
                owners.setdefault(option, {})["compensation", label] = default
    return {**{option: _help(of) for option, of in owners.items()}, **dict.fromkeys(RENAMED)}


def meanings(compensation: Compensation) -> dict[str, str]:
    """Return the names of a compensation's functions, each with one of its elements.

    >>> meanings(COMPENSATIONS["reconstruct"])
    {'reconstruct of units': 'units', 'reconstruct of weights': 'weights'}
    """
    functions = {function: elements for elements, function in compensation.functions.items()}
    if len(functions) == 1:
        return {compensation.name: next(iter(functions.values()))}
    return {f"{compensation.name} of {elements}": elements for elements in sorted(functions.values())}


def _help(defaults: Mapping[tuple[str, str], Any]) -> str:
    """Return the help of an option, its owners and its default, for (kind of owner, its name) → default."""
    if len(set(map(str, defaults.values()))) > 1:
        return f"option of {', '.join(f'{name} (default {value})' for (_, name), value in defaults.items())}"
    value = next(iter(defaults.values()))
    owners: dict[str, list[str]] = {}
    for kind, name in defaults:
        owners.setdefault(kind, []).append(name)
    several = {"criterion": "criteria", "compensation": "compensations"}
    texts = [
        f"the {several[kind] if len(names) > 1 else kind} {', '.join(names)}"
        for kind, names in owners.items()
    ]
    return f"option of {' and '.join(texts)} [default: {value}]"
