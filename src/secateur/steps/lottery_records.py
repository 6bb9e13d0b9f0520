"""Results of a search for lottery tickets: a record for each level, a table and charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeAlias

from secateur.core.files import read_json, write_json
from secateur.core.tables import PERCENT, Column, Format, Table
from secateur.lottery import STARTS, early_stop
from secateur.runs.description import Count, FileRecord, Fraction, is_a
from secateur.sparsity.granularity import parse
from secateur.steps.dense import Dense
from secateur.steps.lottery_levels import Trained
from secateur.steps.result_file import are
from secateur.training.journal import MetricsRow

LOTTERY_FILE = "lottery.json"
LotteryRecord: TypeAlias = Mapping[str, Any]


def dense_record(dense: Dense) -> LotteryRecord:
    """Return the record of a dense training: level 0."""
    return _of_dense(dense.run.name, dense.config.seed, dense.run.history[0]["result"], dense.rows)


def _of_dense(name: str, seed: int, result: LotteryRecord, rows: Sequence[MetricsRow]) -> LotteryRecord:
    return {
        "dense": name,
        "seed": seed,
        "start": "dense",
        "level": 0,
        "one_shot": False,
        "run": name,
        "granularity": None,
        "left": 1.0,
        "weights_left": None,
        "units_left": None,
        "prunable": None,
        "macs_left": 1.0,
        **_measured(result, rows),
    }


def level_record(level: Trained) -> LotteryRecord:
    """Return the record of a level."""
    cut, granularity = level.cut, level.ticket.get("granularity", "weight")
    shrinks = parse(granularity).removes
    rows = level.run.log_of(level.at + 1)
    return {
        "dense": level.dense,
        "seed": level.ticket["seed"],
        "start": level.start,
        "level": level.number,
        "one_shot": level.one_shot,
        "run": level.run.name,
        "granularity": granularity,
        "left": 1 - cut["achieved"],
        "weights_left": None if shrinks else cut["prunable"] - cut["pruned"],
        "units_left": cut["prunable"] - cut["pruned"] if shrinks else None,
        "prunable": cut["prunable"],
        "macs_left": cut["macs"][1] / max(1, cut["macs"][0]),
        **_measured(level.trained, rows),
    }


def _measured(result: LotteryRecord, rows: Sequence[MetricsRow]) -> dict[str, Any]:
    best: MetricsRow = early_stop(rows) if rows else {}
    return {
        **{name: result[name] for name in ("top1", "top5", "loss")},
        "early_stop": best.get("iteration"),
        "early_stop_top1": best.get("top1"),
    }


def gathered(
    own: Sequence[LotteryRecord], others: Sequence[Trained], earlier: Sequence[LotteryRecord]
) -> list[LotteryRecord]:
    """Return the records of a call and of other levels, dense runs first, then by seed and level.

    The record of another call's dense run is taken from `earlier`; without it the iteration of its lowest loss, which
    is in the log of its training, is missing. Two dense runs with the same seed are one sample: the call's own one, or
    else the first.
    """
    known = {record["dense"]: record for record in earlier if record["level"] == 0}
    found, samples = list(own), {record["seed"]: record["dense"] for record in own}
    for level in others:
        name, seed, result = level.dense, level.ticket["seed"], level.run.history[0]["result"]
        if seed not in samples:
            samples[seed], before = name, known.get(name, {})
            same = before.get("top1") == result["top1"]
            found.append(before if same else _of_dense(name, seed, result, ()))
        if samples[seed] == name:
            found.append(level_record(level))
    return sorted(found, key=_place)


def _place(record: LotteryRecord) -> tuple[Any, ...]:
    starts = ["dense", *STARTS]
    start = starts.index(record["start"]) if record["start"] in starts else len(starts)
    return record["level"] > 0, record["seed"], record["level"], record.get("one_shot", False), start


def keep(records: Sequence[LotteryRecord], path: Path) -> None:
    """Write the records, unless the file holds the same ones."""
    plain = [dict(record) for record in records]
    if not path.exists() or read_json(path) != plain:
        write_json(path, plain)


def read(path: Path) -> list[LotteryRecord]:
    """Return the records of earlier calls, an empty list without a file of records."""
    found = read_json(path) if path.exists() else []
    return found if are(found, is_record) else []


class LevelFields(FileRecord):
    """The fields of a record in lottery.json."""

    dense: str
    seed: Count
    start: str
    level: Count
    one_shot: bool = False
    run: str
    granularity: str | None = None
    left: Fraction
    macs_left: Fraction
    top1: Fraction | None
    early_stop: Count | None
    early_stop_top1: Fraction | None = None


def is_record(record: Any) -> bool:
    """Whether a value read from JSON is a record of a training."""
    return is_a(LevelFields, record)


def _accuracy(mean: float, spread: float | None = None) -> str:
    return f"{100 * mean:.2f}{'' if spread is None else f' ± {100 * spread:.2f}'} %"


def _iteration(mean: float, spread: float | None = None) -> str:
    return f"{mean:,.0f}{'' if spread is None else f' ± {spread:,.0f}'}"


SHOWN = {"top1": ("top-1", Format(_accuracy)), "early_stop": ("early stop", Format(_iteration))}
"""Columns of each start in the table: key of a record → (title, format)."""


def table(records: Sequence[LotteryRecord]) -> Table:
    """Return one row for each level: the results of each start, as mean and standard deviation over the dense runs.

    The dense training is level 0 of every start that leads.
    """
    starts = {_title(record): STARTS[record["start"]] for record in records if record["level"]}
    what = counted(records)
    columns = [Column("level", "Level", Format(str)), Column("left", f"{what.capitalize()} left", PERCENT)]
    columns += [] if what == "weights" else [Column("macs_left", "MACs left", PERCENT)]
    columns += [
        Column(f"{key}_{name}", f"{name}, {title}", format, spread=f"{key}_{name}_spread")
        for key, (title, format) in SHOWN.items()
        for name in starts
    ]
    rows = []
    for level, left in sorted({_row(record) for record in records}, key=lambda row: (row[0], -row[1])):
        own = [record for record in records if _row(record) == (level, left)]
        row: dict[str, Any] = {"level": level, "left": fmean(record["left"] for record in own)}
        row |= {"macs_left": fmean(record["macs_left"] for record in own)} if what != "weights" else {}
        for name, start in starts.items():
            of_start = [r for r in own if _title(r) == name or (level == 0 and start.leads)]
            for key in SHOWN:
                row |= _summed(f"{key}_{name}", [r[key] for r in of_start if r[key] is not None])
        rows.append(row)
    return Table(columns, rows)


def counted(records: Sequence[LotteryRecord]) -> str:
    """Return the noun of the counted elements: weights, channels, heads or layers."""
    kinds = (parse(record.get("granularity") or "weight") for record in records)
    return next((f"{kind}s" for kind in kinds if kind.removes), "weights")


def _row(record: LotteryRecord) -> tuple[int, float]:
    """Return the level and the fraction left: with --left the last one leaves more than a full level."""
    return record["level"], float(f"{record['left']:.4g}")


def _title(record: LotteryRecord) -> str:
    """Return the title of a start in tables and charts."""
    return f"{'oneshot-' if record.get('one_shot') else ''}{record['start']}"


def _summed(key: str, values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {}
    return {key: fmean(values), f"{key}_spread": stdev(values) if len(values) > 1 else None}


def draw(records: Sequence[LotteryRecord], folder: Path) -> list[Path]:
    """Write the charts of accuracies and of early-stopping iterations as SVG and PNG, and return the paths."""
    from secateur.report.charts import save, tickets

    return [
        path
        for name, key in (("lottery", "top1"), ("lottery-early-stop", "early_stop"))
        for path in save(tickets(points(records, key), key, counted(records)), folder / name)
    ]


def points(records: Sequence[LotteryRecord], key: str) -> Iterator[dict[str, Any]]:
    """Yield the points of a chart: start, fraction left, and the value under `key`."""
    for record in records:
        if record[key] is not None:
            yield {"start": _title(record), "left": record["left"], "value": record[key]}
