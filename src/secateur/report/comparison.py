"""Tables of runs side by side: accuracies, costs, and the changes by cuts of units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from secateur.core.tables import (
    BYTES,
    COUNT,
    MILLISECONDS,
    NUMBER,
    PERCENT,
    POINTS,
    SI,
    Column,
    Table,
    change,
)
from secateur.report.content import RunView, result

ACCURACY_COLUMNS = (
    Column("label", "Run"),
    Column("sparsity", "Sparsity", PERCENT, help="Fraction of all parameters that is zero"),
    Column("top1_as_cut", "Top-1 as cut", PERCENT, help="Before any retraining"),
    Column("top1", "Top-1", PERCENT, help="At the end"),
    Column("against_dense", "Against dense", POINTS, help="Difference of top-1 in percentage points"),
    Column("top5", "Top-5", PERCENT, help="At the end"),
    Column("loss", "Loss", NUMBER, help="At the end"),
)
COST_COLUMNS = (
    Column("label", "Run"),
    Column("parameters", "Parameters", COUNT),
    Column("nonzero", "Nonzero", COUNT),
    Column("macs", "MACs", SI, help="Multiply-accumulates executed for one sample"),
    Column("macs_nonzero", "MACs at nonzero", SI, help="Those that touch a weight other than zero"),
    Column("bytes_dense", "Size", BYTES, help="Of the weights as they are"),
    Column("bytes_compressed", "Compressed", BYTES, help="Of the weights after DEFLATE"),
)
SHRINKING_COLUMNS = (
    Column("label", "Run"),
    Column("parameters", "Parameters", change(SI), spread="parameters_before"),
    Column("macs", "MACs", change(SI), spread="macs_before", help="Multiply-accumulates for one sample"),
    Column("top1", "Top-1", change(PERCENT), spread="top1_before", help="Of the dense model, and at the end"),
)


def compared(run: RunView) -> dict[str, Any]:
    """Return one row of raw numbers: a run's accuracies, sizes, MACs and latencies (seconds)."""
    top1, dense, measured = run.final.get("top1"), run.before.get("top1"), run.measurement
    row = {
        "name": run.name,
        "label": run.label,
        "top1_as_cut": run.as_cut.get("top1"),
        "top1": top1,
        "against_dense": None if run.is_dense or top1 is None or dense is None else top1 - dense,
        "top5": run.final.get("top5"),
        "loss": run.final.get("loss"),
    }
    if measured is None:
        return row
    counts = ("sparsity", "parameters", "nonzero", "macs", "macs_nonzero", "bytes_dense", "bytes_compressed")
    row |= {name: getattr(measured, name) for name in counts}
    for timed in measured.latencies:
        row |= {f"latency_{timed.batch}": timed.median, f"latency_{timed.batch}_iqr": timed.iqr}
    return row


def results(runs: Iterable[RunView]) -> Table:
    """Return a table of every run's results on the test split, as cut and at the end."""
    return Table(ACCURACY_COLUMNS, [*map(compared, runs)]).without_empty_columns()


def costs(runs: Iterable[RunView]) -> Table:
    """Return a table of every measured run's parameters, MACs, bytes and latencies."""
    measured = [run for run in runs if run.measurement]
    rows = [{**row, "label": row["name"]} for row in map(compared, measured)]
    batches = sorted({int(key.split("_")[1]) for row in rows for key in row if key.startswith("latency_")})
    latencies = [
        Column(
            f"latency_{batch}",
            f"Latency, batch {batch}",
            MILLISECONDS,
            help="Median time of one forward pass, and the interquartile range",
            spread=f"latency_{batch}_iqr",
        )
        for batch in batches
    ]
    return Table([*COST_COLUMNS, *latencies], rows).without_empty_columns()


def smaller(runs: Sequence[RunView]) -> Table:
    """Return a table of parameters, MACs, latency and top-1 before and after cuts of units.

    The latency before is that of the run it was made from, if that is among `runs`.
    """
    rows: list[dict[str, Any]] = []
    batches: set[int] = set()
    for run in runs:
        if not run.shrinks:
            continue
        before, after = result(run.shrinks[0]), result(run.shrinks[-1])
        row = {
            "label": run.label,
            "top1": run.final.get("top1"),
            "top1_before": run.before.get("top1"),
        }
        for what in ("parameters", "macs"):
            row |= {what: after[what][1], f"{what}_before": before[what][0]}
        times, dense = _latencies(run), _latencies(_origin(run, runs))
        for batch in times.keys() & dense.keys():
            row |= {f"latency_{batch}": times[batch], f"latency_{batch}_before": dense[batch]}
            batches.add(batch)
        rows.append(row)
    timed = [
        Column(
            f"latency_{batch}",
            f"Latency, batch {batch}",
            change(MILLISECONDS),
            help="Median time of one forward pass",
            spread=f"latency_{batch}_before",
        )
        for batch in sorted(batches)
    ]
    return Table([*SHRINKING_COLUMNS[:-1], *timed, SHRINKING_COLUMNS[-1]], rows).without_empty_columns()


def _origin(run: RunView, runs: Iterable[RunView]) -> RunView | None:
    """Return the run with the history before the first cut of units of `run`; None if it is not in `runs`."""
    beginning = list(run.history[: list(run.history).index(run.shrinks[0])])
    return next((other for other in runs if list(other.history) == beginning), None)


def _latencies(run: RunView | None) -> dict[int, float]:
    """Return batch size → median seconds; {} without a measurement."""
    timed = run.measurement.latencies if run is not None and run.measurement else ()
    return {time.batch: time.median for time in timed}
