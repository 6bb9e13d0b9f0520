"""Conversion of a run's history into the recipe that reproduces it.

A history is the list of entries in run.json, each with its step ("do"), run folder ("run") and settings ("config").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.core.plain_yaml import write_yaml

RECIPE_VERSION = 1
"""Version of the recipe format."""


def recipe_of(history: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the recipe that reproduces a run with this history."""
    return write_recipe(steps_of(history))


def steps_of(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a history's entries as recipe steps, with `do`, model, data and run folders first."""
    steps = []
    previous = ""
    for entry in history:
        config = {key: value for key, value in entry["config"].items() if value not in (None, [], {}, ())}
        first = {key: config[key] for key in ("model", "data") if key in config}
        names = {"out": entry["run"]} if not previous else {"run": previous}
        if previous and entry["run"] != previous:
            names["out"] = entry["run"]
        steps.append({"do": entry["do"], **first, **names, **config})
        previous = entry["run"]
    return steps


def write_recipe(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a recipe file with these steps, mappings of JSON values."""
    return write_yaml({"secateur": RECIPE_VERSION, "steps": [dict(step) for step in steps]})
