"""The dense training of a ticket, read from its run folder."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from secateur import models
from secateur.core.errors import InputError, StoreError
from secateur.core.seeds import seed_of
from secateur.core.validation import sentence
from secateur.lottery.search import drawn
from secateur.runs.run import MODEL_FILE, RUN_FILE, Run
from secateur.storage import model_files
from secateur.training import Duration, TrainConfig, read_snapshot
from secateur.training.snapshots import snapshot_path


class Dense:
    """A training from scratch, the first step of `run`; `trust` allows user code to build its model.

    Raises `InputError` for a run with another first step, with pruning during training, or without a log.
    """

    def __init__(self, run: Run, *, trust: bool = False) -> None:
        first = run.history[0]
        if first["do"] != "train":
            raise InputError(
                f"{run.folder} began with {first['do']}, so there is no training to go back to: "
                "name a run that secateur train made."
            )
        known: dict[str, Any] = {k: v for k, v in first["config"].items() if k in TrainConfig.model_fields}
        self.run, self.trust = run, trust
        try:
            self.config = TrainConfig(**known)
        except ValidationError as error:
            raise StoreError(
                f"Cannot read the training of {run.folder / RUN_FILE}: {sentence(error)}"
            ) from None
        if self.config.method is not None:
            raise InputError(
                f"{run.folder} was pruned as it trained, by {self.config.method}: train without it."
            )
        self.rows = run.log_of(0)
        if not self.rows and len(run.history) > 1:
            raise InputError(
                f"{run.folder} is {run.title}, and the training that it began with has its log elsewhere: "
                "give --origin the run of that one."
            )
        if not self.rows:
            raise InputError(
                f"{run.folder} has no log of its training: train it for an epoch, and keep metrics.jsonl."
            )

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return int(self.rows[-1]["iteration"]) // self.config.epochs

    def moment(self, span: str) -> int:
        """Return the iterations of a span. Raises `InputError` unless it ends before the training does."""
        total = int(self.rows[-1]["iteration"])
        moment = Duration.parse(span).iterations(self.per_epoch, total)
        if moment >= total:
            raise InputError(
                f"There is no going back to {span}: {self.run.folder} ended after {total} iterations."
            )
        return moment

    def check_snapshot(self, span: str) -> None:
        """Raise `InputError` if the weights after `span` are not available."""
        moment = self.moment(span)
        if moment and not snapshot_path(self.run.folder, moment).exists():
            raise InputError(
                f"{self.run.folder} has no snapshot after {span}: train it with --snapshots {span} to go back there."
            )

    def origin(self, span: str) -> dict[str, Tensor]:
        """Return the weights after a span of the training: a snapshot or, for iteration 0, a repeated initialisation.

        Raises `InputError` if there is no snapshot of that moment.
        """
        self.check_snapshot(span)
        moment = self.moment(span)
        if snapshot_path(self.run.folder, moment).exists():
            return read_snapshot(self.run.folder, moment)
        return drawn(self._as_trained, seed_of("init", self.config.seed))

    def fresh(self, seed: int) -> dict[str, Tensor]:
        """Return newly initialised weights."""
        return drawn(partial(self.build, seed), seed)

    def build(self, seed: int = 0) -> torch.nn.Module:
        """Return the network before any cut, newly initialised; pretrained weights are not downloaded."""
        spec = {**self.run.model, "num_classes": self.run.num_classes, "input_shape": self.run.input_shape}
        return model_files.build_stored(spec, self.run.folder / MODEL_FILE, trust=self.trust, seed=seed)

    def _as_trained(self) -> torch.nn.Module:
        name = str(self.run.model["name"])
        if models.is_user_code(name) and not self.trust:
            raise InputError(
                f"{self.run.folder} names the code {name} to build its model: allow it with --trust."
            )
        shape = self.run.input_shape
        given = ("name", "num_classes", "input_shape")
        args = {key: value for key, value in (self.run.model.get("args") or {}).items() if key not in given}
        return models.build(name, num_classes=self.run.num_classes, input_shape=shape, **args)
