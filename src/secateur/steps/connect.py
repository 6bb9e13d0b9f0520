"""Error barrier on the straight line between two models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator
from torch import nn

from secateur import connectivity, models
from secateur.core.environment import command_line, environment
from secateur.core.files import existing_file, write_json
from secateur.core.options import MACHINE
from secateur.core.tables import NUMBER, PERCENT, Column, Format, Table
from secateur.data import Dataset
from secateur.runs.run import Run
from secateur.sparsity.masks import Masks
from secateur.steps.base import ARGUMENT, Context, Outcome, Step, Trust, percent, require, step
from secateur.steps.choices import (
    DataChoice,
    DataName,
    DataOptions,
    ModelArgs,
    ModelName,
    OutputFormat,
    build_for,
)
from secateur.steps.fusing import check_device

End = Annotated[
    str, Field(min_length=1, description="run folder, or a checkpoint file", json_schema_extra=ARGUMENT)
]
PATH_COLUMNS = (
    Column("alpha", "α", Format(lambda value: f"{value:.3f}")),
    Column("train_error", "Error, train", PERCENT),
    Column("test_error", "Error, test", PERCENT),
    Column("train_loss", "Loss, train", NUMBER),
    Column("test_loss", "Loss, test", NUMBER),
)


class PathOptions(BaseModel):
    """Measurement of a path between two models: the arguments of `secateur.connectivity.path`."""

    points: Annotated[int, Field(ge=3, description="models on the line, both ends included")] = (
        connectivity.PATH_POINTS
    )
    statistics: Annotated[
        str,
        Field(
            description="of batch normalisations between the ends: estimated on training data, or interpolated"
        ),
    ] = "estimated"
    batches: Annotated[int, Field(ge=1, description="training batches for the estimated statistics")] = 50
    samples: Annotated[
        int | None,
        Field(ge=1, description="number of samples of each split, class-balanced; all when left out"),
    ] = None

    @field_validator("statistics")
    @classmethod
    def _statistics(cls, value: str) -> str:
        connectivity.STATISTICS[value]
        return value

    def path_options(self) -> dict[str, Any]:
        """Return the settings by name."""
        return {name: getattr(self, name) for name in PathOptions.model_fields}


@step("connect")
class Connect(Step, PathOptions, DataOptions):
    """Measure error and loss on the line between two models.

    Both are run folders, or checkpoint files of one --model on --data (.pt, .pth, .th, .safetensors; opened without
    running any code). The error barrier is the highest error on the line − the mean of the ends' errors.
    """

    a: End
    b: End
    model: Annotated[
        ModelName | None, Field(description="model of checkpoint files; secateur models lists them")
    ] = None
    model_args: ModelArgs = {}
    data: Annotated[DataName | None, Field(description="data set; the runs' own when left out")] = None
    batch_size: Annotated[int, Field(ge=1, description="samples of a batch of the estimate")] = 128
    seed: Annotated[int, Field(ge=0, description="seed of the order of these batches")] = 0
    augment: Annotated[
        str | None, Field(description="augmentation of these batches; the data set's own when left out")
    ] = None
    device: Annotated[str, Field(description="cpu, cuda, …", json_schema_extra=MACHINE)] = "cpu"
    out: Annotated[
        str | None,
        Field(
            description="folder to write connect.json and the chart (SVG, PNG) to", json_schema_extra=MACHINE
        ),
    ] = None
    trust: Trust = False
    format: OutputFormat = "text"

    @field_validator("augment")
    @classmethod
    def _augment(cls, value: str | None) -> str | None:
        from secateur.data import AUGMENTATIONS

        if value is not None:
            AUGMENTATIONS[value]
        return value

    def perform(self, context: Context) -> Outcome:
        """Read both models, evaluate the path, and return errors, losses and barriers."""
        check_device(self.device)
        runs = [self._run(context.at(name)) for name in (self.a, self.b)]
        opened = [run for run in runs if run is not None]
        require(
            self.model is None or len(opened) < 2,
            "Both are run folders, which know their model: leave --model out.",
        )
        data = self._data(context, opened)
        (a, masks_a), (b, masks_b) = (
            self._read(context, name, run, data) for name, run in zip((self.a, self.b), runs, strict=True)
        )
        own: dict[str, Any] = {"batch_size": self.batch_size, "seed": self.seed, "augment": self.augment}
        rows = connectivity.path(
            a.to(self.device),
            b.to(self.device),
            data,
            masks=(masks_a, masks_b),
            **self.path_options(),
            **own,
        )
        found, risen = connectivity.barrier(rows), connectivity.rise(rows)
        statistics = connectivity.told(a, data, self.statistics, self.batches, self.batch_size)
        record = {
            "a": self.a,
            "b": self.b,
            "data": data.name,
            "statistics": statistics,
            "settings": {**self.path_options(), **own},
            "barrier": found,
            "rise": risen,
            "connected": connectivity.is_stable(found),
            "rows": rows,
        }
        lines = [*sentences(found, risen), f"Statistics of normalisations: {statistics}."]
        if self.out is not None:
            lines.append(self._write(context.at(self.out), record))
        return Outcome(tuple(lines), Table(PATH_COLUMNS, rows), record)

    def _run(self, path: Path) -> Run | None:
        """Open a run folder; None for a checkpoint file."""
        if path.is_dir() or not (self.model or path.is_file()):
            return Run.open(path)
        existing_file(path)
        require(
            self.model is not None, f"{path} is a checkpoint file: say what it is of with --model and --data."
        )
        return None

    def _data(self, context: Context, runs: list[Run]) -> Dataset:
        """Load the data set named, or that of the runs."""
        root = context.data_root or self.data_root
        if self.data is not None:
            own = {name: getattr(self, name) for name in DataOptions.model_fields}
            return DataChoice(data=self.data, **own).load_data(context)
        require(bool(runs), "Say what the models are measured on: --data.")
        names = [str(run.data["name"]) for run in runs]
        require(
            len(set(names)) == 1,
            f"The two runs are of different data ({', '.join(names)}): name what to measure on with --data.",
        )
        return runs[0].load_data(root=root)

    def _read(self, context: Context, name: str, run: Run | None, data: Dataset) -> tuple[nn.Module, Masks]:
        """Return a model and its masks, of a run folder or a checkpoint file."""
        if run is not None:
            return run.load_model(trust=self.trust or context.trust)
        assert self.model is not None
        context.check_code(self.model)
        model = build_for(self.model, self.model_args, data)
        models.load_weights(model, context.at(name))
        return model, Masks({})

    def _write(self, folder: Path, record: dict[str, Any]) -> str:
        """Write the numbers and the chart, and return the sentence with their paths."""
        from secateur.report import charts

        here = {"command": command_line(), "environment": environment(self.device)}
        charts.save(charts.error_along_path(record["rows"]), folder / "connect")
        write_json(folder / "connect.json", {**record, **here})
        return f"Numbers and chart: {folder}/connect.json, .svg, .png"


def sentences(found: dict[str, float], risen: dict[str, float]) -> list[str]:
    """Return the sentences on a barrier."""
    margin = f"the margin is {100 * connectivity.MARGIN:g} %"
    if connectivity.is_stable(found):
        verdict = f"linearly connected, {margin}"
    elif connectivity.is_stable(risen):
        verdict = (
            f"beyond the margin of {100 * connectivity.MARGIN:g} %, but only since one end is so much worse"
        )
    else:
        verdict = f"not linearly connected, {margin}"
    return [
        f"Error barrier: {percent(found['train_error'])} in training, {percent(found['test_error'])} in the test: "
        f"{verdict}.",
        f"Above the worse end error rises by {percent(risen['train_error'])} in training, "
        f"{percent(risen['test_error'])} in the test.",
        f"Loss barrier: {NUMBER.write(found['train_loss'])} in training, {NUMBER.write(found['test_loss'])} in the "
        "test.",
    ]
