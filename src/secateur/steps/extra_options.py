"""Options of criteria and compensations, which stand beside a step's own fields: --norm, --damping and the like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from secateur.compensation import COMPENSATIONS, Compensation
from secateur.criteria import CRITERIA

POWER_OF_TEN = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
UNIT_KINDS, SPARSE_KINDS = frozenset({"channel", "head"}), frozenset({"weight", "n:m"})


def _numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Read 1e-3 as the number it is meant to be; to YAML it is a word."""
    return {
        name: float(value) if isinstance(value, str) and POWER_OF_TEN.fullmatch(value) else value
        for name, value in options.items()
    }


Options = Annotated[
    dict[str, Any],
    AfterValidator(_numbers),
    Field(description="option of the criterion or the compensation, as name=value"),
]


def options_of_cuts() -> dict[str, str]:
    """Return the options of all criteria and compensations, each with whose it is and its default."""
    owners: dict[str, dict[tuple[str, str], Any]] = {}
    for criterion in CRITERIA.values():
        for option, default in criterion.options.items():
            owners.setdefault(option, {})["criterion", criterion.name] = default
    for compensation in COMPENSATIONS.values():
        for label, kinds in meanings(compensation).items():
            for option, default in compensation.options(min(kinds)).items():
                owners.setdefault(option, {})["compensation", label] = default
    return {option: _told(of) for option, of in owners.items()}


def meanings(compensation: Compensation) -> dict[str, frozenset[str]]:
    """Return what a compensation is called where it stands for several functions, and the granularities of each.

    >>> sorted(meanings(COMPENSATIONS["reconstruct"]))
    ['reconstruct of units', 'reconstruct of weights']
    """
    functions = dict.fromkeys(compensation.functions.values())
    parts = [frozenset(k for k, f in compensation.functions.items() if f is each) for each in functions]
    if len(parts) == 1:
        return {compensation.name: parts[0]}
    return {f"{compensation.name} of {_called(kinds)}": kinds for kinds in parts}


def _called(kinds: frozenset[str]) -> str:
    return (
        "units" if kinds == UNIT_KINDS else "weights" if kinds == SPARSE_KINDS else ", ".join(sorted(kinds))
    )


def _told(defaults: Mapping[tuple[str, str], Any]) -> str:
    """Say whose option it is, and what it is when left out: (kind of owner, its name) → default."""
    if len(set(map(str, defaults.values()))) > 1:
        return f"option of {', '.join(f'{name} (default {value})' for (_, name), value in defaults.items())}"
    value = next(iter(defaults.values()))
    owners: dict[str, list[str]] = {}
    for kind, name in defaults:
        owners.setdefault(kind, []).append(name)
    several = {"criterion": "criteria", "compensation": "compensations"}
    told = [
        f"the {several[kind] if len(names) > 1 else kind} {', '.join(names)}"
        for kind, names in owners.items()
    ]
    return f"option of {' and '.join(told)} [default: {value}]"
