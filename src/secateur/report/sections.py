"""The figures of a report, each with its caption and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.core.tables import COUNT, NUMBER, PERCENT, Column, Table
from secateur.report import charts
from secateur.report.content import (
    Figure,
    ReportContent,
    ReportRecord,
    RunView,
    is_cut,
    method,
    removed,
    result,
)

if TYPE_CHECKING:
    pass

SAFE_RATE_COLUMNS = (
    Column("safe", "Safe rate", PERCENT),
    Column("safe_cosine", "Cosine at safe rate", NUMBER),
    Column("optimum", "Optimum p*", PERCENT),
    Column("optimum_cosine", "Cosine at optimum", NUMBER),
    Column("kurtosis_of_kurtoses", "κ²", NUMBER, help="Kurtosis of the tensors' kurtoses"),
    Column("modifier", "Modifier", NUMBER, help="Safe rate = optimum · modifier"),
    Column("parameters", "Parameters", COUNT),
)


@dataclass(frozen=True)
class SafeRateSection:
    """The safe pruning rate of one run: its numbers, notes and figures."""

    label: str
    table: Table
    notes: Sequence[str]
    figures: Sequence[Figure]


def accuracy_rows(runs: Iterable[RunView]) -> list[dict[str, Any]]:
    """Return a row {"method", "sparsity", "stage", "top1"} for every top-1 in the runs' histories.

    Steps common to several runs (a dense training, an earlier cut) count once.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        name, sparsity, stage = "dense", 0.0, "dense"
        for index, entry in enumerate(run.history):
            measured = result(entry)
            if is_cut(entry):
                name, sparsity, stage = method(entry), removed(run.history[: index + 1]), "as cut"
            elif stage == "as cut":
                stage = "retrained"
            if measured.get("top1") is not None:
                row = {"method": name, "sparsity": sparsity, "stage": stage, "top1": measured["top1"]}
                found[(entry.get("run", run.name), index, measured["top1"])] = row
    return list(found.values())


def accuracy(content: ReportContent) -> Iterator[Figure]:
    """Yield top-1 against the fraction removed for each model and data set with a pruned and tested run."""
    columns = [
        Column("method", "Method"),
        Column("stage", "Stage"),
        Column("sparsity", "Removed", PERCENT),
        Column("top1", "Top-1", PERCENT),
        Column("low", "Least", PERCENT),
        Column("high", "Most", PERCENT),
        Column("runs", "Runs", COUNT),
    ]
    subjects = list(dict.fromkeys(run.subject for run in content.runs))
    for index, subject in enumerate(subjects):
        runs = [run for run in content.runs if run.subject == subject]
        rows = accuracy_rows(runs)
        if all(row["stage"] == "dense" for row in rows):
            continue
        points = charts.averaged(rows)
        of = " or ".join({run.removed_from: None for run in runs if not run.is_dense})
        caption = (
            f"Top-1 on the test split against the fraction of {of} removed. Solid lines and"
            " filled marks: after retraining. Dashed lines and open marks: as cut."
        )
        if any(point["runs"] > 1 and point["stage"] != "dense" for point in points):
            caption += " Marks are means over runs of one method, and the band spans these runs."
        title = f"Accuracy of {subject}" if len(subjects) > 1 else "Accuracy against the fraction removed"
        chart, table = charts.accuracy_against_sparsity(rows), Table(columns, points)
        yield Figure(f"accuracy-{index}", title, chart, caption, table)


def groups(content: ReportContent) -> Iterator[Figure]:
    """Yield the units of every prunable group, before the first cut of units and after the last."""
    runs = [run for run in content.runs if run.shrinks]
    if not runs:
        return
    rows = [{**row, "run": run.name} for run in runs for row in _groups(run)]
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(row["group"], {"group": row["group"], "units": row["units"]})
        line[row["run"]] = row["kept"]
    columns = [
        Column("group", "Group"),
        Column("units", "Units", COUNT),
        *(Column(run.name, run.name, COUNT) for run in runs),
    ]
    caption = (
        "A group is all channels, or heads, that run through the same tensors; it is called by the first of them."
        " Groups in network order; point at a bar to see what its units run through."
    )
    chart, table = charts.group_units(rows), Table(columns, list(lines.values()))
    yield Figure("groups", "Units of the groups", chart, caption, table, panels=len(runs))


def _groups(run: RunView) -> list[dict[str, Any]]:
    """Return a row for each group of the model before the first cut, with the units kept after the last."""
    found: dict[str, dict[str, Any]] = {}
    for entry in run.shrinks:
        for row in result(entry)["groups"]:
            known = found.setdefault(row["name"], {"group": row["name"], **row})
            known["kept"] = row["kept"]
    return list(found.values())


def layers(content: ReportContent) -> Iterator[Figure]:
    """Yield the sparsity of every layer, if known."""
    runs = [run for run in content.runs if run.layers and not run.is_dense]
    if not runs:
        return
    rows = [{**layer, "run": run.name} for run in runs for layer in run.layers]
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(row["layer"], {"layer": row["layer"], "parameters": row["parameters"]})
        line[row["run"]] = row["sparsity"]
    columns = [
        Column("layer", "Layer"),
        Column("parameters", "Parameters", COUNT),
        *(Column(run.name, run.name, PERCENT) for run in runs),
    ]
    chart, table = charts.layer_sparsity(rows), Table(columns, list(lines.values()))
    yield Figure("layers", "Sparsity of the layers", chart, "Layers in model order.", table, panels=len(runs))


def training(content: ReportContent) -> Iterator[Figure]:
    """Yield the curves of all recorded trainings, and those of all retrainings."""
    columns = [
        Column("run", "Run"),
        Column("epoch", "Epoch", COUNT),
        Column("top1", "Top-1", PERCENT),
        Column("loss", "Loss", NUMBER),
        Column("train_top1", "Training top-1", PERCENT),
        Column("train_loss", "Training loss", NUMBER),
    ]
    curves = _curves(content.runs)
    for do, title in {"train": "Training", "retrain": "Retraining"}.items():
        rows = [row for row in curves if row["do"] == do]
        if not any(row.get("top1") is not None for row in rows):
            continue
        chart, table = charts.training_curves(rows), Table(columns, rows).without_empty_columns()
        yield Figure(do, title, chart, "Top-1 and loss on the test split, epoch by epoch.", table, panels=2)


def _curves(runs: Iterable[RunView]) -> list[dict[str, Any]]:
    """Return the rows of all training logs with their run's name; rows common to several runs once."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        for row in run.curves:
            step = row.get("step", 0)
            maker = run.history[step].get("run", run.name) if step < len(run.history) else run.name
            key = (maker, step, row["epoch"], row.get("iteration"), row.get("loss"))
            found.setdefault(key, {**row, "run": run.name})
    return list(found.values())


def safe_rates(content: ReportContent) -> list[SafeRateSection]:
    """Return the safe pruning rate of every run that has one."""
    found = [(run.label, run.safe_rate) for run in content.runs if run.safe_rate is not None]
    return [_safe_rate(index, label, rate) for index, (label, rate) in enumerate(found)]


def _safe_rate(index: int, label: str, found: ReportRecord) -> SafeRateSection:
    left_out = [f"{row['name']} has no kurtosis: {row['reason']}." for row in found.get("excluded") or ()]
    figures = [_front(f"front-{index}", found)]
    if found.get("kurtoses"):
        figures.append(_kurtosis(f"kurtosis-{index}", found))
    numbers = Table(SAFE_RATE_COLUMNS, [found]).without_empty_columns()
    return SafeRateSection(label, numbers, [*found.get("notes", ()), *left_out], figures)


def _front(key: str, found: ReportRecord) -> Figure:
    caption = (
        "Cosine similarity of the magnitude-pruned weights to the dense ones at every pruning rate."
        " The optimum is the point nearest to utopia, where everything is pruned and nothing changes."
    )
    table = Table(
        [Column("rate", "Pruning rate", PERCENT), Column("cosine", "Cosine", NUMBER)], found["curve"]
    )
    return Figure(key, "Pruning rate and cosine", charts.front(found), caption, table, square=True)


def _kurtosis(key: str, found: ReportRecord) -> Figure:
    caption = (
        "Kurtosis of each tensor, in model order. The further from the 3 of a normal distribution,"
        " and the more the tensors differ, the less a global magnitude cut can be trusted."
    )
    columns = [
        Column("name", "Tensor"),
        Column("kurtosis", "Kurtosis", NUMBER),
        Column("size", "Elements", COUNT),
    ]
    return Figure(
        key, "Kurtosis of the tensors", charts.kurtosis(found), caption, Table(columns, found["kurtoses"])
    )


def environment(content: ReportContent) -> Table:
    """Return a table of machine and versions, one row each."""
    rows = [{"what": name.replace("_", " "), "value": value} for name, value in content.environment.items()]
    return Table([Column("what", "What"), Column("value", "Value")], rows)


FIGURES: dict[str, Callable[[ReportContent], Iterator[Figure]]] = {
    "accuracy": accuracy,
    "groups": groups,
    "layers": layers,
    "training": training,
}


def figures(content: ReportContent) -> list[Figure]:
    """Return every figure of the report, in the page's order."""
    own = [figure for make in FIGURES.values() for figure in make(content)]
    return [*own, *(figure for found in safe_rates(content) for figure in found.figures)]
