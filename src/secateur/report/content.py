"""The data of a report: plain frozen values, independent of files and folders.

A `RunView` is the data of one run; its history has the form of run.json, its curves that of metrics.jsonl, its safe
rate that of safe_rate.json. Accuracies and sparsities are fractions. Missing data are left out of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from secateur.core.tables import Table
from secateur.measure import Measurement
from secateur.sparsity.granularity import parse

if TYPE_CHECKING:
    import altair as alt

ReportRecord = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A chart with its title, its caption, and its numbers as a table.

    `panels` counts the small multiples, which wrap on a narrow screen; `square` gives both axes one scale.
    """

    key: str
    title: str
    chart: alt.TopLevelMixin
    caption: str
    table: Table
    panels: int = 1
    square: bool = False


@dataclass(frozen=True)
class RunView:
    """Data of one run, with its short name for charts and its label for tables.

    `history` holds the entries of run.json, `curves` the rows of metrics.jsonl, `layers` one
    {"layer", "sparsity", "parameters"} per layer in model order.
    """

    name: str
    label: str
    history: Sequence[ReportRecord] = ()
    curves: Sequence[ReportRecord] = ()
    layers: Sequence[ReportRecord] = ()
    measurement: Measurement | None = None
    safe_rate: ReportRecord | None = None

    @property
    def cuts(self) -> list[int]:
        """Indices of the history's cuts."""
        return [index for index, entry in enumerate(self.history) if is_cut(entry)]

    @property
    def is_dense(self) -> bool:
        """Whether the history has no cut."""
        return not self.cuts

    @property
    def subject(self) -> str:
        """Model and data of the run's first step: "convnet on digits"; empty if not recorded."""
        config = self.history[0].get("config", {}) if self.history else {}
        return " on ".join(str(config[key]) for key in ("model", "data") if config.get(key))

    @property
    def method(self) -> str:
        """The last cut's settings in the words of the recipe: "magnitude, global"; "dense" without a cut."""
        return method(self.history[self.cuts[-1]]) if self.cuts else "dense"

    @property
    def sparsity(self) -> float:
        """The fraction removed so far; see `removed`."""
        return removed(self.history)

    @property
    def removed_from(self) -> str:
        """The unit of `sparsity`: "parameters" after a cut of units, else "prunable weights"."""
        units = self.cuts and "groups" in result(self.history[self.cuts[-1]])
        return "parameters" if units else "prunable weights"

    @property
    def shrinks(self) -> list[ReportRecord]:
        """The entries of the history that cut units."""
        return [entry for entry in self.history if "groups" in result(entry)]

    @property
    def before(self) -> ReportRecord:
        """The test results of the dense model, before the first cut; empty without a test."""
        return _last_tested(self.history[: self.cuts[0]] if self.cuts else self.history)

    @property
    def as_cut(self) -> ReportRecord:
        """The test results right after the last cut; empty for a dense run."""
        return _last_tested([self.history[self.cuts[-1]]] if self.cuts else [])

    @property
    def retrained(self) -> ReportRecord:
        """The test results of the training after the last cut; empty without one."""
        return _last_tested(self.history[self.cuts[-1] + 1 :] if self.cuts else [])

    @property
    def final(self) -> ReportRecord:
        """The test results of the present model; empty without a test since its last cut."""
        return self.before if self.is_dense else self.retrained or self.as_cut


@dataclass(frozen=True)
class Section:
    """Tables and figures under a heading; each table has a caption."""

    title: str
    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class ReportContent:
    """A whole report: its title, the recipe as YAML text, the command that reproduces it, and the runs.

    `sections` come before those of the runs, `summary` before the sentences on runs.
    """

    title: str
    recipe: str = ""
    command: str = ""
    environment: ReportRecord = field(default_factory=dict)
    runs: Sequence[RunView] = ()
    notes: Sequence[str] = ()
    summary: Sequence[str] = ()
    sections: Sequence[Section] = ()


def method(cut: ReportRecord) -> str:
    """Return a cut's criterion, granularity, scope, compensation and start in words, without defaults."""
    config = cut.get("config", {})
    granularity = config.get("granularity", "weight")
    parts = [
        config.get("criterion"),
        None if granularity == "weight" else granularity,
        config.get("scope") if parse(granularity).amount is None else None,
        None if config.get("compensation") == "drop" else config.get("compensation"),
        config.get("start"),
    ]
    return ", ".join(str(part) for part in parts if part) or "pruned"


def is_cut(entry: ReportRecord) -> bool:
    """Whether a history entry cut something: prune, or ticket."""
    return entry["do"] in ("prune", "ticket")


def removed(history: Sequence[ReportRecord]) -> float:
    """Return the fraction removed by a history's cuts: of the prunable weights, or of all parameters.

    After a cut of units it is that of all parameters, over all such cuts; else the last cut's own fraction, which
    includes the earlier ones.
    """
    cuts = [result(entry) for entry in history if is_cut(entry)]
    if not cuts or "groups" not in cuts[-1]:
        return float(cuts[-1].get("achieved", 0.0)) if cuts else 0.0
    first = next(cut for cut in cuts if "groups" in cut)
    return 1 - float(cuts[-1]["parameters"][1]) / float(first["parameters"][0])


def result(entry: ReportRecord) -> ReportRecord:
    """Return a history entry's result, {} without one."""
    return entry.get("result") or {}


def _last_tested(entries: Sequence[ReportRecord]) -> ReportRecord:
    return next(
        (found for entry in reversed(entries) if (found := result(entry)).get("top1") is not None), {}
    )
