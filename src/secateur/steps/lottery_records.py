"""What a search for lottery tickets found: a record for each level, as one table and as charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeAlias

from secateur.files import read_json, write_json
from secateur.lottery import STARTS, Job, early_stop
from secateur.runs import Run
from secateur.steps.dense import Dense
from secateur.tables import PERCENT, Column, Format, Table
from secateur.training.journal import Row

RESULTS = "lottery.json"
Record: TypeAlias = Mapping[str, Any]


def dense_record(dense: Dense) -> Record:
    """Return the record of a dense training: level 0."""
    result = dense.run.history[0]["result"]
    return {
        "dense": dense.run.name,
        "seed": dense.config.seed,
        "start": "dense",
        "level": 0,
        "run": dense.run.name,
        "left": 1.0,
        "weights_left": None,
        "prunable": None,
        **_measured(result, dense.rows),
    }


def level_record(dense: Dense, job: Job, run: Run, last: int) -> Record:
    """Return the record of a level that the steps number `last` − 1 and `last` of a run's history made."""
    cut, trained = run.history[last - 1]["result"], run.history[last]["result"]
    rows = [row for row in run.journal() if row.get("step") == last]
    return {
        "dense": dense.run.name,
        "seed": dense.config.seed,
        "start": job.start,
        "level": job.number,
        "run": run.name,
        "left": 1 - cut["achieved"],
        "weights_left": cut["prunable"] - cut["pruned"],
        "prunable": cut["prunable"],
        **_measured(trained, rows),
    }


def _measured(result: Record, rows: Sequence[Row]) -> dict[str, Any]:
    best: Row = early_stop(rows) if rows else {}
    return {
        **{name: result[name] for name in ("top1", "top5", "loss")},
        "early_stop": best.get("iteration"),
        "early_stop_top1": best.get("top1"),
    }


def keep(records: Sequence[Record], path: Path) -> None:
    """Write the records, unless they are there already."""
    plain = [dict(record) for record in records]
    if not path.exists() or read_json(path) != plain:
        write_json(path, plain)


def _accuracy(mean: float, spread: float | None = None) -> str:
    return f"{100 * mean:.2f}{'' if spread is None else f' ± {100 * spread:.2f}'} %"


def _iteration(mean: float, spread: float | None = None) -> str:
    return f"{mean:,.0f}{'' if spread is None else f' ± {spread:,.0f}'}"


SHOWN = {"top1": ("top-1", Format(_accuracy)), "early_stop": ("early stop", Format(_iteration))}
"""What the table shows of each start: key of a record → title and format."""


def table(records: Sequence[Record]) -> Table:
    """Return one row for each level, with mean and standard deviation over the dense runs of what each start reached.

    The dense training is level 0 of every start that leads.
    """
    starts = list(dict.fromkeys(record["start"] for record in records if record["level"]))
    columns = [Column("level", "Level", Format(str)), Column("left", "Weights left", PERCENT)]
    columns += [
        Column(f"{key}_{start}", f"{start}, {title}", format, spread=f"{key}_{start}_spread")
        for key, (title, format) in SHOWN.items()
        for start in starts
    ]
    rows = []
    for level in sorted({record["level"] for record in records}):
        own = [record for record in records if record["level"] == level]
        row: dict[str, Any] = {"level": level, "left": fmean(record["left"] for record in own)}
        for start in starts:
            of_start = [r for r in own if r["start"] == start or (level == 0 and STARTS[start].leads)]
            for key in SHOWN:
                row |= _summed(f"{key}_{start}", [r[key] for r in of_start if r[key] is not None])
        rows.append(row)
    return Table(columns, rows)


def _summed(key: str, values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {}
    return {key: fmean(values), f"{key}_spread": stdev(values) if len(values) > 1 else None}


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write the charts of accuracies and of early-stopping iterations as SVG and PNG, and return the paths."""
    from secateur.report.charts import save, tickets

    return [
        path
        for name, key in (("lottery", "top1"), ("lottery-early-stop", "early_stop"))
        for path in save(tickets(points(records, key), key), folder / name)
    ]


def points(records: Sequence[Record], key: str) -> Iterator[dict[str, Any]]:
    """Yield what a chart shows of the records: start, fraction left, and the value under `key`."""
    for record in records:
        if record[key] is not None:
            yield {"start": record["start"], "left": record["left"], "value": record[key]}
