"""Base of steps that cut: open a run, cut its model, measure the result and save it as a new run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from secateur.data import Dataset
from secateur.runs.run import Run
from secateur.sparsity.masks import Masks
from secateur.steps.base import (
    Context,
    DataRoot,
    Evaluate,
    In,
    Out,
    Outcome,
    Overwrite,
    Step,
    Stopwatch,
    Trust,
    is_done,
    making,
    outcome_of,
    percent,
    require,
)
from secateur.training import evaluate

CALIBRATION_BATCH = 64
"""Samples in one batch of calibration data."""


@dataclass(frozen=True)
class CutResult:
    """A pruned model, its masks, the JSON record for the history, and sentences."""

    model: nn.Module
    masks: Masks
    result: dict[str, Any]
    lines: tuple[str, ...]


class Cutting(Step):
    """A step that makes a new run by cutting the model of another one."""

    makes: ClassVar[str]
    """The noun for the new model."""
    measured: ClassVar[str]
    """The moment at which the accuracy is measured."""

    run: In
    out: Out
    data_root: DataRoot = None
    evaluate: Evaluate = True
    overwrite: Overwrite = False
    trust: Trust = False

    def perform(self, context: Context) -> Outcome:
        """Cut, measure and save."""
        run = Run.open(context.at(self.run))
        folder = context.at(self.out)
        require(
            folder.resolve() != run.folder.resolve(), f"{folder} is the run to cut: choose another --out."
        )
        planned = [*context.past(run), self.identity()]
        context.comes_to(folder, planned)
        if is_done(folder, planned, self.overwrite):
            return self._was_there(folder, planned)
        context.check_present(run)
        with making(folder):
            if is_done(folder, planned, self.overwrite):  # by a process that was at work until now
                return self._was_there(folder, planned)
            return self._made(run, folder, context)

    def _was_there(self, folder: Path, planned: list[dict[str, Any]]) -> Outcome:
        """Return the outcome of a cut that was made before."""
        return outcome_of(
            folder, planned, f"{folder} holds this {self.makes} already; --overwrite repeats it."
        )

    def _made(self, run: Run, folder: Path, context: Context) -> Outcome:
        """Cut, measure and save."""
        watch = Stopwatch()
        cut = self.cut(run, context)
        measured = evaluate(cut.model, self.data_of(run, context)) if self.evaluate else {}
        result = {**cut.result, **measured}
        entry = {"do": self.do, "config": self.config()}
        run.record(cut.model, cut.masks, entry, result, watch.seconds, folder)
        accuracy = f", top-1 {percent(result['top1'])} {self.measured}" if self.evaluate else ""
        told, *more = cut.lines
        return Outcome((f"{folder}: {told}{accuracy}", *more), record={"run": str(folder), **result})

    def cut(self, run: Run, context: Context) -> CutResult:
        """Cut the model of `run`."""
        raise NotImplementedError

    def data_of(self, run: Run, context: Context) -> Dataset:
        """Return the data set of `run`."""
        return run.load_data(root=context.data_root or self.data_root)


def samples(data: Dataset, count: int, seed: int) -> Iterator[tuple[Any, Tensor]]:
    """Yield `count` training samples, class-balanced, as batches of inputs and labels."""
    chosen = data.subset(train=count, seed=seed).train
    for start in range(0, len(chosen), CALIBRATION_BATCH):
        part = chosen.select(slice(start, start + CALIBRATION_BATCH))
        yield data.normalised(part.inputs), part.labels
