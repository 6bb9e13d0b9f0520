"""The levels in a folder, from any calls of `secateur lottery`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.runs.run import RUN_FILE, Run
from secateur.steps.base import identity


def folder_of(dense: str, start: str, number: int, one_shot: bool) -> str:
    """Return the name of a level's run folder.

    >>> folder_of("dense-0", "weights", 3, one_shot=False)
    'dense-0-weights-03'
    """
    return f"{dense}-{'oneshot-' if one_shot else ''}{start}-{number:02}"


@dataclass(frozen=True)
class Trained:
    """A trained level: step number `at` of `run` is its ticket, the next one its training.

    `dense` is the name of the dense run.
    """

    run: Run
    at: int
    dense: str
    one_shot: bool

    @property
    def ticket(self) -> Mapping[str, Any]:
        """Settings of its ticket."""
        return dict(self.run.history[self.at]["config"])

    @property
    def start(self) -> str:
        """Name of its start."""
        return str(self.ticket["start"])

    @property
    def number(self) -> int:
        """Its number from 1; that of the last level of a search, which may be fractional, is rounded up."""
        return math.ceil(float(self.ticket["level"]))

    @property
    def cut(self) -> Mapping[str, Any]:
        """Result of its ticket."""
        return dict(self.run.history[self.at]["result"])

    @property
    def trained(self) -> Mapping[str, Any]:
        """Result of its training."""
        return dict(self.run.history[self.at + 1]["result"])

    @property
    def settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of its dense training and its ticket, without those that vary within a search."""
        return self._settings(0), self._settings(self.at)

    @property
    def rounds(self) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any]]]:
        """Start, result of the ticket and settings of the training, for the earlier levels and this one."""
        for at, entry in enumerate(self.run.history[: self.at + 1]):
            if entry["do"] == "ticket":
                yield entry["config"]["start"], entry["result"], self._settings(at + 1)

    def _settings(self, at: int) -> dict[str, Any]:
        entry = self.run.history[at]
        return common(identity(entry["do"], entry["config"]))


def common(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those that vary between levels and seeds."""
    return {name: value for name, value in settings.items() if name not in ("seed", "start", "level")}


def levels_in(folder: Path) -> Iterator[Trained]:
    """Yield the trained levels of a folder, in the order of their names."""
    for about in sorted(folder.glob(f"*-*-[0-9]*/{RUN_FILE}")):
        run = Run.open(about.parent)
        tickets = [at for at, entry in enumerate(run.history) if entry["do"] == "ticket"]
        if not tickets or [entry["do"] for entry in run.history[tickets[-1] + 1 :]][:1] != ["retrain"]:
            continue
        for one_shot in (True, False):
            level = Trained(run, tickets[-1], "", one_shot)
            end = folder_of("", level.start, level.number, one_shot)
            if run.name.endswith(end):
                yield Trained(run, level.at, run.name.removesuffix(end), one_shot)
                break


def difference(held: Sequence[Mapping[str, Any]], planned: Sequence[Mapping[str, Any]]) -> str:
    """Return the differences of a run from the planned one, by their identities; "" if it begins with all of them."""
    for has, wants in zip(held, planned, strict=False):
        names = [name for name in wants if has.get(name) != wants[name]]
        if has["do"] == wants["do"] and names:
            return ", ".join(
                f"{_setting_text(name, has.get(name))} instead of {wants[name]}" for name in names
            )
    steps, wanted = ([each["do"] for each in every] for every in (held, planned))
    return "" if steps[: len(wanted)] == wanted else " → ".join(steps)


def _setting_text(name: str, value: Any) -> str:
    """Return the text of a setting; a fractional level is the last one of a search with --left."""
    cut_short = name == "level" and not float(value).is_integer()
    return f"{name} {value}{' (where --left ended)' if cut_short else ''}"
