"""Comparison of dropping, fusing and reconstructing, by group and sparsity."""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from secateur.core.environment import command_line, environment
from secateur.core.errors import InputError
from secateur.core.options import MACHINE
from secateur.core.progress import track
from secateur.criteria import CRITERIA, Calibration
from secateur.graph.analyze import analyze
from secateur.graph.groups import Group
from secateur.runs.run import Run
from secateur.steps.base import SAMPLES, Context, Outcome, Step, Stopwatch, Trust, require, step
from secateur.steps.choices import DataName, DataOptions, ModelName, OutputFormat
from secateur.steps.cutting import samples
from secateur.steps.extra_options import Options, options_of_cuts
from secateur.steps.fusing import (
    ORIGINAL,
    PUBLISHED_CRITERIA,
    UNFOLDED_CRITERIA,
    WAYS,
    Bench,
    FusionSubject,
    check_device,
    from_output,
    known,
)
from secateur.steps.fusion_models import SavedModels
from secateur.steps.fusion_records import (
    FUSION_FILE,
    FUSION_IDENTITY,
    Charts,
    FusionRecord,
    draw,
    is_record,
    published,
    table,
    whole,
)
from secateur.steps.import_checkpoint import Import
from secateur.steps.result_file import Cells


@step("compare-fusion")
class CompareFusion(Step, DataOptions):
    """Compare dropping, fusing and reconstructing channels, one group at a time.

    For every group and sparsity the same channels are removed in each way, without training afterwards. Parameters,
    MACs, accuracy and inference time are saved after every cell, so that the same command resumes an interrupted one.
    """

    out: Annotated[
        str, Field(min_length=1, description=f"folder to write {FUSION_FILE} to", json_schema_extra=MACHINE)
    ]
    run: Annotated[
        str | None, Field(description="run folder of the model; or name a model", json_schema_extra=MACHINE)
    ] = None
    model: Annotated[
        ModelName | None, Field(description="model, instead of a run; imported as by import")
    ] = None
    model_args: Annotated[
        dict[str, Any], Field(description="argument of the model's factory, as name=value")
    ] = {}
    weights: Annotated[str | None, Field(description="checkpoint file of the model")] = None
    data: Annotated[DataName | None, Field(description="data set of the model")] = None
    groups: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...],
        Field(
            description="groups, such as 1 2 3 or 1,2,3; 0 is nearest the output, the classifier is none; "
            "all when left out"
        ),
    ] = ()
    sparsities: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], ...],
        Field(min_length=1, description="fractions of a group to remove, such as 0.3 0.5 or 0.3,0.5"),
    ] = (0.3, 0.4, 0.5, 0.6, 0.7)
    criterion: Annotated[
        str,
        Field(
            description="l1, l2, lamp, taylor or chip, as published; unfolded_l1 and so on for the library's own; or "
            "another criterion; secateur criteria lists them"
        ),
    ] = "l1"
    reconstruct: Annotated[bool, Field(description="reconstruct, too")] = False
    correct: Annotated[
        bool | None,
        Field(
            description="correct means and variances on the calibration data, in all ways or in none; "
            "when left out, in the reconstruction only"
        ),
    ] = None
    calibration: Annotated[
        int, Field(ge=1, description="class-balanced training samples for criteria, fits and corrections")
    ] = 512
    seed: Annotated[int, Field(ge=0, description="seed of all random draws")] = 0
    test_samples: Annotated[
        int | None, Field(ge=1, description="number of test samples, class-balanced; all when left out")
    ] = None
    devices: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="devices to time on, such as cpu cuda; the first one tests"),
    ] = ("cpu",)
    batch_size: Annotated[int, Field(ge=1, description="samples of one timed pass")] = 64
    threads: Annotated[int | None, Field(ge=1, description="threads to time with")] = None
    options: Options = {}
    save_models: Annotated[
        bool,
        Field(description="save each model as a run folder below OUT/models", json_schema_extra=MACHINE),
    ] = False
    charts: Charts = None
    overwrite: Annotated[
        bool, Field(description="measure existing results again", json_schema_extra=MACHINE)
    ] = False
    trust: Trust = False
    format: OutputFormat = "text"

    @classmethod
    def extra_options(cls) -> Mapping[str, str | None]:
        """Return the options of all criteria and compensations."""
        return options_of_cuts()

    def perform(self, context: Context) -> Outcome:
        """Measure the missing cells, and show all selected ones."""
        criterion, options = self._scored_by()
        for device in self.devices:
            check_device(device)
        run = self._run(context)
        model, masks = run.load_model(trust=self.trust or context.trust)
        data = run.load_data(root=context.data_root or self.data_root)
        groups = from_output(model, analyze(model, data.example(SAMPLES)))
        cells = self._cells(run, groups)
        looks = CRITERIA[criterion].needs_data or self.reconstruct or bool(self.correct)
        calibration = Calibration(samples(data, self.calibration, self.seed)) if looks else None
        subject = FusionSubject(
            model, masks, groups, data, criterion, options, calibration, self.correct, self.seed
        )
        bench = Bench(
            data.subset(test=self.test_samples, seed=self.seed), self.devices, self.batch_size, self.threads
        )
        whole_split = None if self.test_samples is None else data
        kept = SavedModels(
            context.at(self.out) / "models", run, subject, self.calibration, self.overwrite, whole_split
        )
        about = self._about(run)
        here = {"environment": environment(self.devices[0])}
        seen = {"calibration": {"seed": self.seed, **calibration.to_json()}} if calibration else {}
        file, fresh, wanted, dense = (
            context.at(self.out) / FUSION_FILE,
            0,
            list[FusionRecord](),
            dict[str, float](),
        )
        with Cells.open(file, FUSION_IDENTITY, is_record, "secateur compare-fusion") as results:
            for index, sparsity in track(cells, "cells", len(cells)):
                group = groups[index]
                cell = {**about, "group_index": index, "group_name": group.name, "sparsity": sparsity}
                record = {} if self.overwrite else results.find(cell)
                missing = [way for way in self._ways if way not in record]
                unsaved = [way for way in self._ways if self.save_models and kept.missing(cell, group, way)]
                watch = Stopwatch()
                made = {
                    way: subject.cut(group, sparsity, WAYS[way])
                    for way in self._ways
                    if way in missing or way in unsaved
                }
                seconds = watch.seconds / max(1, len(made))
                if missing:
                    dense = dense or ({} if self.overwrite else whole(results.all, cell))
                    smaller = {way: made[way].model for way in missing}
                    measured = bench.measure({ORIGINAL: model, **smaller}, dense)
                    dense = {ORIGINAL: measured[ORIGINAL]["accuracy"]}
                    now = {"timestamp": timestamp(), "command": command_line()}
                    record = published({**now, **cell, **seen, **measured, **record, **now, **here})
                    results.keep(record)
                    fresh += 1
                for way in unsaved:
                    kept.save(cell, group, way, made[way], record[way], seconds)
                wanted.append(published(record))
        if self.charts is not None:
            draw(wanted, context.at(self.charts))
        cells_now = "cell" if fresh == 1 else "cells"
        lines = [f"{file}: {fresh} {cells_now} measured now, {len(cells) - fresh} were there already."]
        if self.save_models:
            lines.append(f"{kept.folder}: {len(wanted) * len(self._ways)} models, each a run folder.")
        return Outcome(tuple(lines), table(wanted), wanted)

    @property
    def _ways(self) -> list[str]:
        """The selected ways, by their names in records."""
        return [way for way in WAYS if way != "reconstruction" or self.reconstruct]

    def _scored_by(self) -> tuple[str, dict[str, Any]]:
        """Return the criterion and the options. Raises `InputError` for an unknown one."""
        criterion, own = {**PUBLISHED_CRITERIA, **UNFOLDED_CRITERIA}.get(self.criterion, (self.criterion, {}))
        CRITERIA[criterion].check("channel", {})
        options = {**own, **self.options}
        there = known(criterion, [WAYS[way] for way in self._ways])
        for name in options:
            require(
                name in there,
                f"Neither {self.criterion} nor the compensations have an option '{name}': "
                f"there are {', '.join(sorted(there))}.",
            )
        return criterion, options

    def _cells(self, run: Run, groups: Sequence[Group]) -> list[tuple[int, float]]:
        """Return the selected pairs of group and sparsity. Raises `InputError` for an unknown group."""
        require(bool(groups), f"{run.folder} has no group of channels that may be cut.")
        for index in self.groups:
            require(
                index < len(groups),
                f"There is no group {index}: those of {run.folder} are 0 ({groups[0].name}, nearest the output) "
                f"to {len(groups) - 1} ({groups[-1].name}).",
            )
        chosen = self.groups or range(len(groups))
        return list(dict.fromkeys(itertools.product(chosen, self.sparsities)))

    def _about(self, run: Run) -> dict[str, Any]:
        """Return the fields common to all cells, with the settings that determine results, as read from JSON."""
        fields = {"options", "calibration", "correct", "test_samples", "devices", "batch_size", "threads"}
        data = {key: value for key, value in run.data.items() if key not in ("root", "download")}
        scored = {"scored": "folded"} if self.criterion in PUBLISHED_CRITERIA else {}
        about = {
            "model": run.model["name"],
            "data": data["name"],
            "run": run.name,
            "weights": run.weights,
            "criterion": self.criterion,
            "seed": self.seed,
            "settings": {**self.model_dump(mode="json", include=fields), "data": data, **scored},
        }
        return dict(json.loads(json.dumps(about)))

    def _run(self, context: Context) -> Run:
        """Return the selected run, or import the model as a run folder below `out`."""
        if self.run is not None:
            run = Run.open(context.at(self.run))
            require(
                self.model in (None, run.model["name"]) and self.weights is None and self.data is None,
                f"{run.folder} holds {run.model['name']} with its weights and data: name a run or a model, not both.",
            )
            told = set(DataOptions.model_fields) - {"data_root", "download"} | {"model_args"}
            for name in sorted(told & self.model_fields_set):
                require(
                    getattr(self, name) == type(self).model_fields[name].default,
                    f"{run.folder} knows its model and data: leave {name} out, or name a model instead of a run.",
                )
            return run
        if self.model is None or self.data is None:
            raise InputError("Say which model: either --run RUN, or --model and --data, and --weights FILE.")
        own = {name: getattr(self, name) for name in DataOptions.model_fields}
        taken = Import(
            model=self.model,
            model_args=self.model_args,
            data=self.data,
            weights=self.weights,
            out=str(Path(self.out) / "model"),
            evaluate=False,
            overwrite=self.overwrite,
            **own,
        )
        taken.perform(context)
        return Run.open(context.at(taken.out))


def timestamp() -> str:
    """Return the present time in UTC, in ISO 8601 format."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
