"""Training of a model from scratch, and further training of a run's model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from secateur import methods
from secateur.core.files import locked
from secateur.core.options import MACHINE
from secateur.core.seeds import same_draws, seed_of
from secateur.data import Dataset
from secateur.runs.run import RUN_FILE, Run
from secateur.steps.base import (
    Context,
    DataRoot,
    In,
    Out,
    Outcome,
    Overwrite,
    Step,
    Trust,
    identities,
    identity,
    is_done,
    outcome_of,
    percent,
    step,
)
from secateur.steps.choices import DataChoice, ModelChoice
from secateur.training import Fit, TrainConfig, evaluate, train
from secateur.training.checkpoint import Checkpoint
from secateur.training.config import TARGET_OPTIONS
from secateur.training.evaluation import try_out
from secateur.training.journal import Journal, read_journal
from secateur.training.loop import make_fabric


class Trains(Step, TrainConfig):
    """A step that trains, with or without pruning during training."""

    @classmethod
    def extra_options(cls) -> Mapping[str, str | None]:
        """Return the options of all methods: --every, …."""
        return methods.extra_options() | {name: f"{name}, for the method" for name in TARGET_OPTIONS}


@step("train")
class Train(Trains, ModelChoice, DataChoice):
    """Train a model and keep it as a run folder."""

    out: Out
    overwrite: Overwrite = False

    def perform(self, context: Context) -> Outcome:
        """Train, or resume an interrupted training."""
        folder = context.at(self.out)
        context.check_code(self.model)
        planned = [self.identity()]
        context.comes_to(folder, planned)
        _remove_leftover_checkpoint(folder)
        if is_done(folder, planned, self.overwrite):
            return outcome_of(
                folder, planned, f"{folder} holds this training already; --overwrite repeats it."
            )
        data = self.load_data(context)
        with same_draws(seed_of("init", self.seed)):
            model = self.build(data)
        run = Run(
            folder,
            self.spec,
            self.data_arguments(context),
            data.input_shape,
            data.num_classes,
            preparation=data.preparation,
        )
        return _train(self, self, run, model, {}, data, folder, start=0, overwrite=self.overwrite)


@step("retrain")
class Retrain(Trains):
    """Train a run's model on, its masks held.

    Cut weights stay exactly zero. The run's own folder is updated unless --out names another.
    """

    run: In
    out: Annotated[str | None, Field(description="run folder to make instead", json_schema_extra=MACHINE)] = (
        None
    )
    epochs: Annotated[int, Field(ge=0, description="passes over the training data")] = 1
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False, description="peak learning rate")] = 0.01
    train_subset: Annotated[
        int | None, Field(ge=1, description="number of training images; all when left out")
    ] = None
    data_root: DataRoot = None
    again: Annotated[
        bool, Field(description="repeat a retraining that is the run's last step", json_schema_extra=MACHINE)
    ] = False
    overwrite: Overwrite = False
    trust: Trust = False

    def perform(self, context: Context) -> Outcome:
        """Retrain, or resume an interrupted retraining."""
        run = Run.open(context.at(self.run))
        folder = run.folder if self.out is None else context.at(self.out)
        _remove_leftover_checkpoint(folder)
        held, planned = identities(run), [*context.past(run), self.identity()]
        if folder.resolve() == run.folder.resolve():
            repeated = context.taken is None and not self.again and held[-1] == planned[-1]
            if repeated or held[: len(planned)] == planned:
                context.comes_to(folder, planned)
                return outcome_of(
                    folder,
                    held if repeated else planned,
                    f"{folder} ends with this retraining already; --again repeats it.",
                )
        elif is_done(folder, planned, self.overwrite):
            context.comes_to(folder, planned)
            return outcome_of(
                folder, planned, f"{folder} holds this retraining already; --overwrite repeats it."
            )
        context.check_present(run)
        context.comes_to(folder, planned)
        subset = None if self.train_subset is None else (self.train_subset, None)
        data = run.load_data(root=context.data_root or self.data_root, subset=subset)
        model, masks = run.load_model(trust=self.trust or context.trust)
        start = len(run.history)
        return _train(self, self, run, model, masks, data, folder, start=start, overwrite=self.overwrite)


def _train(
    this: Step,
    config: TrainConfig,
    run: Run,
    model: nn.Module,
    masks: Mapping[str, Tensor],
    data: Dataset,
    folder: Path,
    *,
    start: int,
    overwrite: bool,
) -> Outcome:
    """Train `model` and save it in `folder`, as step number `start` of the history of `run`."""
    planned = {"steps": [*identities(run), this.identity()]}
    settings = TrainConfig(**{name: getattr(config, name) for name in TrainConfig.model_fields})
    try_out(model, data)  # raises before anything is written
    make_fabric(settings)
    with locked(folder):
        checkpoint = Checkpoint(folder, planned)
        in_place = start > 0 and folder.resolve() == run.folder.resolve()
        if not checkpoint.fits():
            if overwrite:
                checkpoint.remove()
            if overwrite and not in_place:
                (folder / RUN_FILE).unlink(missing_ok=True)
            if not checkpoint.exists:
                earlier = read_journal(run.folder) if start else []
                Journal.reset(folder, [row for row in earlier if row.get("step", 0) < start])
        context = {"step": start, "do": this.do}
        fitted = train(model, data, settings, masks=masks, folder=folder, context=context, identity=planned)
        result = (
            {name: fitted.rows[-1][name] for name in TRAIN_RESULTS} if fitted.rows else evaluate(model, data)
        )
        if settings.method is not None:
            result["cut"] = fitted.masks.sparsity
        finished = run.record(
            model, fitted.masks, {"do": this.do, "config": this.config()}, result, fitted.seconds, folder
        )
        checkpoint.remove()
        return Outcome((*_lines(finished, fitted),), record={"run": str(folder), **result})


def _remove_leftover_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a training already in the folder's history, left by a process killed in between."""
    checkpoint = Checkpoint(folder, {})
    steps = [identity(each["do"], each) for each in (checkpoint.found() or {}).get("steps", ())]
    if steps and (folder / RUN_FILE).exists() and identities(Run.open(folder))[: len(steps)] == steps:
        checkpoint.remove()


TRAIN_RESULTS = ("loss", "top1", "top5")


def _lines(run: Run, fitted: Fit) -> list[str]:
    entry: Mapping[str, Any] = run.history[-1]
    cut = f", {percent(entry['result']['cut'])} cut" if "cut" in entry["result"] else ""
    resumed = f", continued from iteration {fitted.resumed_at}" if fitted.resumed_at else ""
    return [
        f"{run.folder}: top-1 {percent(entry['result']['top1'])} on the test split after {entry['do']}{cut} "
        f"({fitted.seconds:.1f} s{resumed})"
    ]
