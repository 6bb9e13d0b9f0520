"""Instability analysis: error barriers between trainings that differ in the noise of SGD."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, TypeAlias

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from secateur import connectivity
from secateur.core.environment import command_line, environment
from secateur.core.options import MACHINE
from secateur.core.tables import COUNT, PERCENT, Column, Format, Table, percent
from secateur.core.validation import NO_SETTING
from secateur.data import Dataset
from secateur.runs.description import Count, FileRecord, Fraction, is_a
from secateur.runs.run import Run
from secateur.sparsity.masks import Masks
from secateur.steps.base import Context, Outcome, Step, Stopwatch, Trust, require, step
from secateur.steps.choices import DataChoice, ModelChoice, OutputFormat
from secateur.steps.connect import PathOptions
from secateur.steps.result_file import Cells
from secateur.steps.train import Train
from secateur.training import Duration, TrainConfig
from secateur.training.snapshots import FOLDER as SNAPSHOTS
from secateur.training.snapshots import snapshot_path

INSTABILITY_FILE, DENSE_FOLDER, CHILDREN = "instability.json", "dense", "children"
NOT_HERE = ("start_at", "snapshots", "method", "amount", "options")
"""Settings of a training that this step sets itself or does not support."""


@step("instability")
class Instability(Step, TrainConfig, PathOptions, ModelChoice, DataChoice):
    """Measure from which moment of a training on its outcome is stable to the noise of SGD.

    Trains a model once. From its weights at every moment --at, children are trained to the end with different orders
    and augmentations of the data, and the error barrier between every two of them is measured. With --masks the
    children are tickets. Every pair is saved when it is measured, so that the same command resumes an interrupted one.
    """

    out: Annotated[
        str,
        Field(
            min_length=1,
            description="folder to write numbers, chart and trained models to",
            json_schema_extra=MACHINE,
        ),
    ]
    at: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="moments k of the branches, such as 0it 100it 1ep 3%"),
    ] = ("0it", "1%", "3%", "10%", "30%")
    children: Annotated[int, Field(ge=2, description="children trained from each moment")] = 2
    masks: Annotated[
        str | None, Field(description="run folder whose masks cut the children from moment k on")
    ] = None
    overwrite: Annotated[
        bool, Field(description="train and measure existing results again", json_schema_extra=MACHINE)
    ] = False
    trust: Trust = False
    format: OutputFormat = "text"

    @field_validator(*NOT_HERE)
    @classmethod
    def _left_out(cls, value: Any, info: ValidationInfo) -> Any:
        if value != TrainConfig.model_fields[str(info.field_name)].get_default(call_default_factory=True):
            raise NO_SETTING
        return value

    def perform(self, context: Context) -> Outcome:
        """Train and measure the missing children and pairs, and show all selected ones."""
        context.check_code(self.model)
        folder, data = context.at(self.out), self.load_data(context)
        per_epoch = -(-len(data.train) // self.batch_size)
        total = per_epoch * self.epochs
        moments, masks = self._iterations(per_epoch, total), self._cut(context, data)
        with Cells.open(
            folder / INSTABILITY_FILE, INSTABILITY_IDENTITY, is_cell, "secateur instability"
        ) as results:
            if self.overwrite:
                shutil.rmtree(folder / CHILDREN, ignore_errors=True)
                shutil.rmtree(folder / DENSE_FOLDER / SNAPSHOTS, ignore_errors=True)
                results.clear()
            weights = self._dense(context, moments)
            about = self._about(weights, masks, total)
            children = connectivity.Children(
                folder / DENSE_FOLDER,
                folder / CHILDREN / (about["masks"] or "dense")[:8],
                data,
                self._training(),
                lambda: self._fresh(data),
                masks=masks,
                weights=weights,
            )
            cells, fresh = list[InstabilityRecord](), 0
            for k, pair in itertools.product(moments, itertools.combinations(range(self.children), 2)):
                place = {**about, "k": k, "pair": list(pair)}
                cell = dict(results.find(place))
                if not cell:
                    cell = {**place, **self._measured(children, k, pair)}
                    results.keep(cell)
                    fresh += 1
                cells.append(cell)
            if fresh or not (folder / "instability.png").exists():
                _draw([cell for cell in results.all if comparable(cell, about)], folder)
        line = f"{folder / INSTABILITY_FILE}: {fresh} pairs measured now, {len(cells) - fresh} were there already."
        told = f"Statistics of normalisations: {cells[0]['statistics']}."
        drawn = f"Numbers and chart: {folder / 'instability'}.json, .svg, .png"
        return Outcome((line, told, drawn), table(cells), cells)

    def _measured(self, children: connectivity.Children, k: int, pair: tuple[int, int]) -> InstabilityRecord:
        """Return the record of two children."""
        watch = Stopwatch()
        one, other = (children.get(k, number) for number in pair)
        own: dict[str, Any] = {"batch_size": self.batch_size, "seed": self.seed, "augment": self.augment}
        rows = connectivity.path(
            one, other, children.data, masks=(children.masks, children.masks), **self.path_options(), **own
        )
        return {
            "statistics": connectivity.told(
                one, children.data, self.statistics, self.batches, self.batch_size
            ),
            "barrier": connectivity.barrier(rows),
            "rows": rows,
            "seconds": round(watch.seconds, 1),
            "command": command_line(),
            "environment": environment(str(children.device)),
        }

    def _training(self) -> TrainConfig:
        """Return the settings of the training alone."""
        return TrainConfig(**{name: getattr(self, name) for name in TrainConfig.model_fields})

    def _about(self, weights: str, masks: Masks, total: int) -> InstabilityRecord:
        """Return the fields common to all pairs."""
        packed = b"".join(name.encode() + bits.numpy().tobytes() for name, bits in masks.pack().items())
        return {
            "weights": weights,
            "masks": hashlib.sha256(packed).hexdigest() if masks else None,
            "cut": masks.sparsity,
            "total": total,
            "settings": self.path_options(),
        }

    def _cut(self, context: Context, data: Dataset) -> Masks:
        """Return the masks of the run of --masks, which must fit the model; none without it."""
        if self.masks is None:
            return Masks({})
        run = Run.open(context.at(self.masks))
        masks = run.load_model(trust=self.trust or context.trust)[1]
        require(len(masks) > 0, f"{run.folder} has no masks: name a run whose weights were cut.")
        masks.of(self._fresh(data))
        return masks

    def _fresh(self, data: Dataset) -> nn.Module:
        """Build the model anew."""
        return self.build(data)

    def _iterations(self, per_epoch: int, total: int) -> list[int]:
        """Return the iterations of the branches, each once, in ascending order."""
        found = {span: Duration.parse(span).iterations(per_epoch, total) for span in self.at}
        for span, k in found.items():
            require(k < total, f"Children can't part at {span}: the training ends after {total} iterations.")
        return sorted(set(found.values()))

    def _dense(self, context: Context, moments: Sequence[int]) -> str:
        """Train the common ancestor, and return the digest of its weights.

        The training is deterministic: snapshots for further moments are made by repeating it.
        """
        own = (*TrainConfig.model_fields, *ModelChoice.model_fields, *DataChoice.model_fields)
        settings: dict[str, Any] = {name: getattr(self, name) for name in own}
        settings |= {"out": str(Path(self.out) / DENSE_FOLDER), "snapshots": tuple(f"{k}it" for k in moments)}
        Train(**settings, overwrite=self.overwrite).perform(context)
        run = Run.open(context.at(settings["out"]))
        if not all(snapshot_path(run.folder, k).exists() for k in moments):
            require(
                len(run.history) == 1,
                f"{run.folder} has gone on to {run.title} and lacks snapshots: choose another --out.",
            )
            Train(**settings, overwrite=True).perform(context)
        return str(run.history[0]["weights"])


InstabilityRecord: TypeAlias = Mapping[str, Any]
"""Record of one pair of children, identified by the keys in `INSTABILITY_IDENTITY`."""
INSTABILITY_IDENTITY = ("weights", "masks", "settings", "k", "pair")


class ErrorRecord(FileRecord):
    """Errors on both splits, or the barriers of them."""

    train_error: float
    test_error: float


class PairRecord(FileRecord):
    """A record in instability.json."""

    weights: str
    masks: str | None
    cut: Fraction
    settings: dict[str, Any]
    k: Count
    total: Annotated[int, Field(ge=1)]
    pair: list[Count]
    statistics: str
    barrier: ErrorRecord
    rows: Annotated[list[ErrorRecord], Field(min_length=1)]


def is_cell(record: Any) -> bool:
    """Whether a value read from JSON is a record of a pair."""
    return is_a(PairRecord, record)


def _spread(value: float, spread: float | None = None) -> str:
    """Return a fraction as percent, with the standard deviation if given."""
    return percent(value) if spread is None else f"{100 * value:.2f} ± {100 * spread:.2f} %"


SPREAD = Format(_spread)
INSTABILITY_COLUMNS = (
    Column("k", "k", COUNT),
    Column("share", "Of the training", PERCENT),
    Column("pairs", "Pairs", COUNT),
    Column("train", "Barrier, train", SPREAD, spread="train_spread"),
    Column("test", "Barrier, test", SPREAD, spread="test_spread"),
    Column("train_ends", "Error of the ends, train", PERCENT),
    Column("test_ends", "Error of the ends, test", PERCENT),
    Column("stable", "Stable"),
)


def table(cells: Sequence[InstabilityRecord]) -> Table:
    """Return one row for each k: mean and standard deviation of the barriers of its pairs."""
    return Table(
        INSTABILITY_COLUMNS,
        [_row(k, list(own)) for k, own in itertools.groupby(cells, lambda cell: cell["k"])],
    )


def _row(k: int, cells: Sequence[InstabilityRecord]) -> dict[str, Any]:
    row: dict[str, Any] = {"k": k, "share": k / cells[0]["total"], "pairs": len(cells)}
    for split in ("train", "test"):
        found = [cell["barrier"][f"{split}_error"] for cell in cells]
        ends = [cell["rows"][at][f"{split}_error"] for cell in cells for at in (0, -1)]
        spread = stdev(found) if len(found) > 1 else None
        row |= {split: fmean(found), f"{split}_spread": spread, f"{split}_ends": fmean(ends)}
    mean = {"train_error": row["train"], "test_error": row["test"]}
    return {**row, "stable": "yes" if connectivity.is_stable(mean) else "no"}


def comparable(cell: InstabilityRecord, about: InstabilityRecord) -> bool:
    """Whether a cell is of the same training and measurement, regardless of its masks."""
    return all(cell[key] == about[key] for key in ("weights", "settings"))


def points(cells: Sequence[InstabilityRecord]) -> list[dict[str, Any]]:
    """Return the points of the chart: a series for each split, and for each sparsity if there are several."""
    several = len({cell["masks"] for cell in cells}) > 1
    return [
        {
            "series": f"{_title(cell)}, {split}" if several else split,
            "k": cell["k"],
            "barrier": cell["barrier"][f"{split}_error"],
        }
        for cell in sorted(cells, key=lambda cell: (cell["cut"], cell["k"]))
        for split in ("train", "test")
    ]


def _title(cell: InstabilityRecord) -> str:
    return f"{100 * cell['cut']:.4g} % cut" if cell["masks"] else "dense"


def _draw(cells: Sequence[InstabilityRecord], folder: Path) -> None:
    """Write the chart."""
    from secateur.report import charts

    charts.save(charts.barrier_over_k(points(cells)), folder / "instability")
