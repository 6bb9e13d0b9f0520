"""A run folder: one model, with its history and its measurements.

    run.json             the model's name and arguments, its data and their preparation, and its history: every step
                         with settings and result
    model.safetensors    the weights, the masks at one bit per weight, and the plan of a smaller model
    recipe.yaml          the recipe that reproduces this folder
    metrics.jsonl        the training log
    checkpoint.safetensors   only while a training is unfinished

The model file and run.json are each replaced atomically, and an interrupted training continues from its checkpoint.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur import data as data_sources
from secateur.core.brief import Brief
from secateur.core.environment import command_line, environment
from secateur.core.errors import DataError, StoreError
from secateur.core.files import make_folder, os_errors, read_json, sweep, write_json, write_text
from secateur.core.modules import named_parameters, parameters_of
from secateur.data import Dataset
from secateur.runs.description import MetricsRecord, RunRecord, SafeRateRecord, checked
from secateur.runs.history import recipe_of
from secateur.sparsity.masks import Masks
from secateur.sparsity.targets import check_finite
from secateur.storage import model_files
from secateur.storage.restore import fill
from secateur.training.checkpoint import CHECKPOINT_FILE as CHECKPOINT
from secateur.training.journal import METRICS_FILE, MetricsRow, read_journal

RUN_VERSION = 1
RUN_FILE, MODEL_FILE, RECIPE_FILE, SAFE_RATE_FILE = (
    "run.json",
    "model.safetensors",
    "recipe.yaml",
    "safe_rate.json",
)


@dataclass(frozen=True, repr=False)
class Run(Brief):
    """A run folder's content apart from the tensors.

    `model` is {"name", "args"}; `data` the arguments of `secateur.data.load`; `history` one entry per step taken,
    oldest first: {"do", "run", "config", "result", "seconds", "command", "environment", "weights"}. `preparation` is
    that of the data it was made on, `Dataset.preparation`, which later steps repeat; None in runs of older versions.
    """

    folder: Path
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    input_shape: tuple[int, ...] | None
    num_classes: int
    history: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)
    preparation: Mapping[str, Any] | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Run:
        """Read a finished run folder. Raises `StoreError` if there is none, or it isn't finished."""
        path = Path(folder)
        with os_errors(f"read {path}"):
            if not path.exists():
                raise StoreError(
                    f"There is no run folder {path}: make one with secateur train or secateur import."
                )
            if not path.is_dir():
                raise StoreError(
                    f"{path} is a file, not a run folder: name the folder that holds {RUN_FILE}."
                )
            if not (path / RUN_FILE).exists():
                if (path / CHECKPOINT).exists():
                    raise StoreError(
                        f"{path} holds an unfinished training: give its secateur train command again."
                    )
                raise StoreError(
                    f"{path} is no run folder, it has no {RUN_FILE}: make one with secateur train or import."
                )
        about = read_json(path / RUN_FILE)
        version = about.get("format") if isinstance(about, dict) else None
        if isinstance(version, int) and version > RUN_VERSION:
            raise StoreError(f"A newer secateur wrote {path}: update with pip install -U secateur.")
        checked(RunRecord, about, path / RUN_FILE, "bring that file back, or make the run again")
        shape = about["input_shape"]
        return cls(
            path,
            about["model"],
            about["data"],
            tuple(shape) if shape else None,
            about["num_classes"],
            tuple(about["history"]),
            about.get("preparation"),
        )

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def title(self) -> str:
        """The names of its steps: "train → prune → retrain"."""
        return " → ".join(str(entry["do"]) for entry in self.history)

    def load_model(self, *, trust: bool = False) -> tuple[nn.Module, Masks]:
        """Return the model, on the CPU in training mode, and its masks. See `secateur.load` for `trust`.

        Raises `StoreError` for a missing, corrupt or foreign model file, `ModelError` for one of another model or with
        NaN or infinite weights, `InputError` for untrusted user code.
        """
        path = self.folder / MODEL_FILE
        stored = model_files.read(path)
        model = model_files.build_stored(
            {**self.model, "num_classes": self.num_classes, "input_shape": self.input_shape},
            path,
            trust=trust,
        )
        fill(model, stored.state, stored.plan, str(path))
        check_finite(dict(named_parameters(model)))
        self.check_model()
        return model, stored.masks

    def check_model(self) -> None:
        """Raise `StoreError` if the model file is not the one written by the last step, by its SHA-256.

        Not checked during an unfinished training, which may have stopped between writing the two files.
        """
        path = self.folder / MODEL_FILE
        if self.weights is None or (self.folder / CHECKPOINT).exists() or _digest(path) == self.weights:
            return
        raise StoreError(
            f"{path} is not the file that {self.title} left here, its SHA-256 is another: bring that one back, or take "
            "this one into a run of its own with secateur import."
        )

    def load_data(self, **overrides: Any) -> Dataset:
        """Return the run's data set; `overrides` (such as root=…) that are not None replace recorded arguments.

        Images are resized and normalised as when the run was made, by its `preparation`, whatever has been added to
        them since. Raises `DataError` for data of another input shape or with other classes, and the errors of
        `data.load`.
        """
        chosen = {key: value for key, value in overrides.items() if value is not None}
        arguments: dict[str, Any] = {**self.data, **chosen}
        arguments["subset"] = tuple(arguments.get("subset") or (None, None))
        if arguments.get("image_size") is None:
            arguments["image_size"] = self._side()
        found = self._prepared(data_sources.load(**arguments), "normalize" in chosen)
        if found.input_shape != self.input_shape or found.num_classes != self.num_classes:
            raise DataError(
                f"{found.name} has inputs {found.input_shape} and {found.num_classes} classes, but {self.name} was "
                f"made for {self.input_shape} and {self.num_classes}: name its own data."
            )
        return found

    def _side(self) -> int | None:
        """Return the side of the run's images, if they come from files and are square; None else."""
        height, width = (self.preparation or {}).get("size") or (0, 1)
        return height if height == width and ":" in str(self.data["name"]) else None

    def _prepared(self, found: Dataset, renormalised: bool) -> Dataset:
        """Return the data as the run's preparation has them. Raises `DataError` for other classes."""
        if self.preparation is None:
            return found
        classes, known = list(found.classes), self.preparation["classes"]
        if classes != known:
            more, less = (
                [name for name in one if name not in other]
                for one, other in ((classes, known), (known, classes))
            )
            change = [
                f"{', '.join(names[:3])} {what}"
                for names, what in ((more, "are new"), (less, "are gone"))
                if names
            ]
            raise DataError(
                f"The classes of {found.name} are not those that {self.name} was made with "
                f"({'; '.join(change) or 'their order is another'}): bring these back, or train anew."
            )
        mean, std = self.preparation["mean"], self.preparation["std"]
        if renormalised or mean is None or found.input_shape is None or len(mean) != found.input_shape[0]:
            return found
        return found.with_normalisation(mean, std)

    def example(self, **overrides: Any) -> Any:
        """Return one input for measurements: noise, float32 [1, *input_shape], for images; a test sample for text."""
        if self.input_shape is None:
            return self.load_data(**overrides).example()
        return torch.randn(1, *self.input_shape, generator=torch.Generator().manual_seed(0))

    def journal(self) -> list[MetricsRow]:
        """Return the rows of the training log. Raises `StoreError` for a row that is none of a training."""
        remedy = "delete that line, or bring the file back"
        return [
            checked(MetricsRecord, row, self.folder / METRICS_FILE, remedy, f"line {number}")
            for number, row in enumerate(read_journal(self.folder), start=1)
        ]

    def log_of(self, at: int) -> list[MetricsRow]:
        """Return the log's rows of the training that is step number `at`; [] if its log is in another folder.

        Raises `StoreError` if the log ends before the training did.
        """
        rows = [row for row in self.journal() if row.get("step") == at]
        result = self.history[at]["result"]
        if rows and not all(_close(rows[-1].get(name), result.get(name)) for name in ("loss", "top1")):
            raise StoreError(
                f"The log of {self.folder} ends at iteration {rows[-1].get('iteration')}, before its training did: "
                "bring metrics.jsonl back, or delete the folder and train anew."
            )
        return rows

    def safe_rate(self) -> dict[str, Any] | None:
        """Return the saved safe-rate analysis of the present weights; None without one."""
        path = self.folder / SAFE_RATE_FILE
        with os_errors(f"read {path}"):
            if not path.exists():
                return None
        saved = checked(SafeRateRecord, read_json(path), path, "delete it, and run secateur safe-rate again")
        return saved if saved["weights"] == self.weights else None

    @property
    def weights(self) -> str | None:
        """SHA-256 of the model file written by the last step; None if not recorded."""
        return self.history[-1].get("weights") if self.history else None

    def record(
        self,
        model: nn.Module,
        masks: Mapping[str, Tensor],
        step: Mapping[str, Any],
        result: Mapping[str, Any],
        seconds: float,
        folder: Path | None = None,
    ) -> Run:
        """Write model, run.json and recipe with the entry of `step` ({"do", "config"}), and return the new run.

        `folder` is the target, by default the run's own. `seconds` are those of the step, `result` its numbers.
        """
        target = make_folder(folder or self.folder)
        about = None if self.preparation is None else {"preparation": dict(self.preparation)}
        model_files.save(model, target / MODEL_FILE, masks=masks, about=about)
        device = next((str(parameter.device) for parameter in parameters_of(model)), "cpu")
        entry = {
            "do": step["do"],
            "run": target.resolve().name,
            "config": dict(step["config"]),
            "result": dict(result),
            "seconds": round(seconds, 3),
            "command": command_line(),
            "environment": environment(device),
            "weights": _digest(target / MODEL_FILE),
        }
        run = replace(self, folder=target, history=(*self.history, entry))
        write_text(target / RECIPE_FILE, recipe_of(run.history))
        sweep(target)  # before run.json: once it is written, a killed step is not repeated
        run.write()
        return run

    def write(self) -> None:
        """Write run.json."""
        write_json(
            self.folder / RUN_FILE,
            {
                "format": RUN_VERSION,
                "model": dict(self.model),
                "data": dict(self.data),
                "input_shape": list(self.input_shape) if self.input_shape else None,
                "num_classes": self.num_classes,
                "preparation": None if self.preparation is None else dict(self.preparation),
                "history": [dict(entry) for entry in self.history],
            },
        )


def _close(one: Any, other: Any) -> bool:
    return one == other or (
        isinstance(one, float) and isinstance(other, float) and math.isclose(one, other, rel_tol=1e-6)
    )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with os_errors(f"read {path}"), path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
