"""The parts of a report as data: the comparison of all runs, and each figure with its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.report import charts
from secateur.report.content import ReportContent, Row, RunView, method, result
from secateur.tables import BYTES, COUNT, MILLISECONDS, NUMBER, PERCENT, POINTS, SI, Column, Table

if TYPE_CHECKING:
    import altair as alt

RESULTS = (
    Column("label", "Run"),
    Column("sparsity", "Sparsity", PERCENT, help="Fraction of all parameters that is zero"),
    Column("top1_as_cut", "Top-1 as cut", PERCENT, help="Before any retraining"),
    Column("top1", "Top-1", PERCENT, help="At the end"),
    Column("against_dense", "Against dense", POINTS, help="Difference of top-1 in percentage points"),
    Column("top5", "Top-5", PERCENT, help="At the end"),
    Column("loss", "Loss", NUMBER, help="At the end"),
)
COSTS = (
    Column("label", "Run"),
    Column("parameters", "Parameters", COUNT),
    Column("nonzero", "Nonzero", COUNT),
    Column("macs", "MACs", SI, help="Multiply-accumulates executed for one sample"),
    Column("macs_nonzero", "MACs at nonzero", SI, help="Those that touch a weight other than zero"),
    Column("bytes_dense", "Size", BYTES, help="Of the weights as they are"),
    Column("bytes_compressed", "Compressed", BYTES, help="Of the weights after DEFLATE"),
)
SAFE_RATE = (
    Column("safe", "Safe rate", PERCENT),
    Column("safe_cosine", "Cosine at safe rate", NUMBER),
    Column("optimum", "Optimum p*", PERCENT),
    Column("optimum_cosine", "Cosine at optimum", NUMBER),
    Column("kurtosis_of_kurtoses", "κ²", NUMBER, help="Kurtosis of the tensors' kurtoses"),
    Column("modifier", "Modifier", NUMBER, help="Safe rate = optimum · modifier"),
    Column("parameters", "Parameters", COUNT),
)


@dataclass(frozen=True)
class Figure:
    """A chart with its title, the caption that says how to read it, and its numbers as a table.

    `panels` counts the small multiples, which wrap on a narrow screen; `square` asks for one scale on both
    axes.
    """

    key: str
    title: str
    chart: alt.TopLevelMixin
    caption: str
    table: Table
    panels: int = 1
    square: bool = False


@dataclass(frozen=True)
class SafeRate:
    """The safe pruning rate of one run: its numbers, what to know about them, and its figures."""

    label: str
    table: Table
    notes: Sequence[str]
    figures: Sequence[Figure]


def comparison(runs: Iterable[RunView]) -> list[dict[str, Any]]:
    """One row of raw numbers per run: what it reaches, what it weighs and what it takes."""
    return [_compared(run) for run in runs]


def results(runs: Iterable[RunView]) -> Table:
    """What every run reaches on the test split, as cut and at the end."""
    return Table(RESULTS, comparison(runs)).without_empty_columns()


def costs(runs: Iterable[RunView]) -> Table:
    """What every measured run weighs and takes."""
    rows = [{**row, "label": row["name"]} for row in comparison(run for run in runs if run.measurement)]
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
    return Table([*COSTS, *latencies], rows).without_empty_columns()


def _compared(run: RunView) -> dict[str, Any]:
    top1, dense, measured = run.final.get("top1"), run.before.get("top1"), run.measurement
    row = {
        "name": run.name,
        "label": run.label,
        "top1_as_cut": run.as_cut.get("top1"),
        "top1": top1,
        "against_dense": None if run.is_dense or top1 is None or dense is None else top1 - dense,
        "top5": run.final.get("top5"),
        "loss": run.final.get("loss"),
        "sparsity": run.sparsity,
    }
    if measured is None:
        return row
    counts = ("sparsity", "parameters", "nonzero", "macs", "macs_nonzero", "bytes_dense", "bytes_compressed")
    row |= {name: getattr(measured, name) for name in counts}
    for timed in measured.latencies:
        row |= {f"latency_{timed.batch}": timed.median, f"latency_{timed.batch}_iqr": timed.iqr}
    return row


def accuracy_rows(runs: Iterable[RunView]) -> list[dict[str, Any]]:
    """Every accuracy in the runs' histories with its method, sparsity and stage.

    Runs that share a beginning (a dense training, an earlier cut) count it once.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        name, sparsity, stage = "dense", 0.0, "dense"
        for index, entry in enumerate(run.history):
            measured = result(entry)
            if entry["do"] == "prune":
                name, sparsity, stage = method(entry), measured.get("achieved", sparsity), "as cut"
            elif stage == "as cut":
                stage = "retrained"
            if measured.get("top1") is not None:
                row = {"method": name, "sparsity": sparsity, "stage": stage, "top1": measured["top1"]}
                found[(entry.get("run", run.name), index, measured["top1"])] = row
    return list(found.values())


def accuracy(content: ReportContent) -> Iterator[Figure]:
    """Top-1 against sparsity, for each model and data set of which anything was pruned and tested."""
    columns = [
        Column("method", "Method"),
        Column("stage", "Stage"),
        Column("sparsity", "Sparsity", PERCENT),
        Column("top1", "Top-1", PERCENT),
        Column("low", "Least", PERCENT),
        Column("high", "Most", PERCENT),
        Column("runs", "Runs", COUNT),
    ]
    subjects = list(dict.fromkeys(run.subject for run in content.runs))
    for index, subject in enumerate(subjects):
        rows = accuracy_rows(run for run in content.runs if run.subject == subject)
        if all(row["stage"] == "dense" for row in rows):
            continue
        points = charts.averaged(rows)
        caption = (
            "Top-1 on the test split against the fraction of prunable weights removed. Solid lines and filled"
            " marks: after retraining. Dashed lines and open marks: as cut."
        )
        if any(point["runs"] > 1 and point["stage"] != "dense" for point in points):
            caption += " Marks are means over runs of one method, and the band spans these runs."
        title = f"Accuracy of {subject}" if len(subjects) > 1 else "Accuracy against sparsity"
        chart, table = charts.accuracy_against_sparsity(rows), Table(columns, points)
        yield Figure(f"accuracy-{index}", title, chart, caption, table)


def layers(content: ReportContent) -> Iterator[Figure]:
    """The sparsity of every layer, where it is known."""
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
    """The course of every training and of every retraining that was recorded."""
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
    """The rows of all training logs with the run that made them, those that runs share once."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        for row in run.curves:
            step = row.get("step", 0)
            maker = run.history[step].get("run", run.name) if step < len(run.history) else run.name
            key = (maker, step, row["epoch"], row.get("iteration"), row.get("loss"))
            found.setdefault(key, {**row, "run": run.name})
    return list(found.values())


def safe_rates(content: ReportContent) -> list[SafeRate]:
    """The safe pruning rate of every run that has one."""
    found = [(run.label, run.safe_rate) for run in content.runs if run.safe_rate is not None]
    return [_safe_rate(index, label, rate) for index, (label, rate) in enumerate(found)]


def _safe_rate(index: int, label: str, found: Row) -> SafeRate:
    left_out = [f"{row['name']} has no kurtosis: {row['reason']}." for row in found.get("excluded") or ()]
    figures = [_front(f"front-{index}", found)]
    if found.get("kurtoses"):
        figures.append(_kurtosis(f"kurtosis-{index}", found))
    numbers = Table(SAFE_RATE, [found]).without_empty_columns()
    return SafeRate(label, numbers, [*found.get("notes", ()), *left_out], figures)


def _front(key: str, found: Row) -> Figure:
    caption = (
        "Cosine similarity of the magnitude-pruned weights to the dense ones at every pruning rate."
        " The optimum is the point nearest to utopia, where everything is pruned and nothing changes."
    )
    table = Table(
        [Column("rate", "Pruning rate", PERCENT), Column("cosine", "Cosine", NUMBER)], found["curve"]
    )
    return Figure(key, "Pruning rate and cosine", charts.front(found), caption, table, square=True)


def _kurtosis(key: str, found: Row) -> Figure:
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
    """Machine and versions, one row each."""
    rows = [{"what": name.replace("_", " "), "value": value} for name, value in content.environment.items()]
    return Table([Column("what", "What"), Column("value", "Value")], rows)


FIGURES: dict[str, Callable[[ReportContent], Iterator[Figure]]] = {
    "accuracy": accuracy,
    "layers": layers,
    "training": training,
}


def figures(content: ReportContent) -> list[Figure]:
    """Every figure of the report, in the page's order."""
    own = [figure for make in FIGURES.values() for figure in make(content)]
    return [*own, *(figure for found in safe_rates(content) for figure in found.figures)]
