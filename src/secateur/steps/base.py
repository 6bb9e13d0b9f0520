"""Base of steps: one validated value that is a recipe entry, a command and a Python call.

A step's fields are the recipe's keys and the command's options; `perform` executes it. The command line, recipes and
the documentation find a registered step class by themselves. Fields marked `machine` are not part of the identity of a
run: a run folder made with other values of them is the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import to_jsonable_python
from rich.tree import Tree

from secateur import models
from secateur.core.errors import InputError, StoreError
from secateur.core.files import locked
from secateur.core.options import MACHINE, kinds_of
from secateur.core.registry import Registry
from secateur.core.seeds import same_draws
from secateur.core.tables import Table
from secateur.core.validation import sentence
from secateur.data import held
from secateur.runs.run import RUN_FILE, Run

SAMPLES = 2
"""Samples of the batch that a model is traced on to find its groups."""

ARGUMENT = {"machine": True, "argument": True}

Out = Annotated[str, Field(min_length=1, description="run folder to make", json_schema_extra=MACHINE)]
In = Annotated[str, Field(min_length=1, description="run folder", json_schema_extra=ARGUMENT)]
DataRoot = Annotated[
    str | None,
    Field(description="folder of the data sets; SECATEUR_DATA when left out", json_schema_extra=MACHINE),
]
Overwrite = Annotated[
    bool, Field(description="replace the content of the run folder", json_schema_extra=MACHINE)
]
Trust = Annotated[
    bool,
    Field(description="allow a run to import user code (package.module:factory)", json_schema_extra=MACHINE),
]
Evaluate = Annotated[
    bool, Field(description="measure the accuracy on the test split", json_schema_extra=MACHINE)
]


@dataclass(frozen=True)
class Context:
    """Environment of a step: relative run folders are taken below `root`; `trust` applies to every step.

    `taken`, in a recipe only, maps each run folder to the identities of its steps so far, so that a completed step is
    recognised even if later steps changed the folder.
    """

    root: Path = Path()
    trust: bool = False
    data_root: str | None = None
    taken: dict[Path, list[dict[str, Any]]] | None = None

    def at(self, name: str) -> Path:
        """Return the path of a run folder or file named in a step. Raises `InputError` for a name no file can have."""
        require("\0" not in name, f"No file or folder can be called {name!r}: choose another name.")
        return self.root / name

    def past(self, run: Run) -> list[dict[str, Any]]:
        """Return the identities of the steps of `run`: all or, in a recipe, those up to the present step."""
        return (self.taken or {}).get(run.folder.resolve(), identities(run))

    def comes_to(self, folder: Path, planned: list[dict[str, Any]]) -> None:
        """Record, in a recipe, the identities `planned` as the steps of `folder` so far."""
        if self.taken is not None:
            self.taken[folder.resolve()] = planned

    def check_present(self, run: Run) -> None:
        """Raise `StoreError` if a run has more steps than the recipe has performed there."""
        if identities(run) != self.past(run):
            raise StoreError(
                f"{run.folder} has gone on to {run.title} since the step that this one follows: "
                "take the recipe in another --root."
            )

    def check_code(self, model: str) -> None:
        """Raise `InputError` if a recipe names user code for a model without `trust`."""
        if self.taken is not None and not self.trust and models.is_user_code(model):
            raise InputError(f"The recipe names the code {model} to build a model: allow it with --trust.")


@dataclass(frozen=True)
class Outcome:
    """The output of a step: sentences, a table, and a record for JSON.

    A tree, if set, replaces the table in text output.
    """

    lines: tuple[str, ...] = ()
    table: Table | None = None
    record: Any = None
    tree: Tree | None = None


class Step(BaseModel):
    """Base of all steps."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    do: ClassVar[str] = ""

    def __init__(self, /, **values: Any) -> None:
        """Take the settings. Raises `InputError` for an invalid one."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(sentence(error)) from error

    def perform(self, context: Context) -> Outcome:
        """Perform the step."""
        raise AssertionError(f"{type(self).__name__} does nothing")

    def __call__(
        self, root: str | Path = ".", *, trust: bool = False, data_root: str | None = None
    ) -> Outcome:
        """Perform the step from Python: `steps.Eval(run="runs/lenet5")()`; run folders are below `root`."""
        with held(), same_draws():
            return self.perform(Context(Path(root), trust, data_root))

    @classmethod
    def extra_options(cls) -> Mapping[str, str | None]:
        """Return the options beside the fields, name → help, stored in the field `options`; help None hides one."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, values: Any) -> Any:
        """Move the extra options among a recipe's keys to the field `options`."""
        if not isinstance(values, dict):
            return values
        extra = {key: value for key, value in values.items() if key in cls.extra_options()}
        rest = {key: value for key, value in values.items() if key not in extra}
        return {**rest, "options": {**(rest.get("options") or {}), **extra}} if extra else rest

    @model_validator(mode="before")
    @classmethod
    def _no_number_is_true(cls, values: Any) -> Any:
        """Refuse True and False for numbers, which pydantic accepts as 1 and 0."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and bool not in kinds_of(field.annotation):
                raise InputError(
                    f"The setting {name} is {str(value).lower()}: give a value, it is no yes or no."
                )
        return values

    def config(self) -> dict[str, Any]:
        """Return the fields of a recipe entry: all but the folders."""
        names = {"run", "runs", "out", "overwrite", "again", "trust"}
        return self.model_dump(mode="json", exclude=names)

    def identity(self) -> dict[str, Any]:
        """Return the fields that determine the step's result."""
        return identity(self.do, self.config())


STEPS: Registry[type[Step]] = Registry("step")
AnyStep = TypeVar("AnyStep", bound=type[Step])


def step(name: str) -> Callable[[AnyStep], AnyStep]:
    """Register the decorated class as the step, and the command, called `name`."""

    def register(cls: AnyStep) -> AnyStep:
        cls.do = name
        STEPS.add(name, cls)
        return cls

    return register


def identity(do: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` without the machine fields of step `do`; missing fields have their defaults."""
    fields = STEPS[do].model_fields
    machine = {name for name, field in fields.items() if field.json_schema_extra}
    defaults = {
        name: to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in fields.items()
        if not field.is_required()
    }
    return {"do": do, **{key: value for key, value in {**defaults, **config}.items() if key not in machine}}


def is_done(folder: Path, planned: list[dict[str, Any]], overwrite: bool) -> bool:
    """Whether `folder` already holds the result of the `planned` identities, possibly with later steps.

    Raises `StoreError` for any other content, unless `overwrite`.
    """
    if overwrite or not folder.exists():
        return False
    if not folder.is_dir():
        raise StoreError(f"{folder} is a file: choose another --out.")
    if not (folder / RUN_FILE).exists():
        foreign = [
            path.name for path in folder.iterdir() if path.name not in OURS and not path.name.startswith(".")
        ]
        if foreign:
            raise StoreError(
                f"{folder} holds other files ({', '.join(sorted(foreign)[:3])}): choose another --out."
            )
        return False
    held = identities(Run.open(folder))
    if held[: len(planned)] == planned:
        return True
    raise StoreError(
        f"{folder} holds another run ({' → '.join(entry['do'] for entry in held)}): choose another --out, "
        "or replace it with --overwrite."
    )


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Lock the run folder that the block makes; a new one that is still empty at the end is removed.

    Raises `StoreError` if another process is at work there.
    """
    there = folder.exists()
    try:
        with locked(folder):
            yield
    finally:
        if not there:
            with suppress(OSError):
                folder.rmdir()  # of an empty folder only


def outcome_of(folder: Path, planned: list[dict[str, Any]], line: str) -> Outcome:
    """Return the outcome of a completed step from the history of `folder`, after the `planned` identities."""
    entry = Run.open(folder).history[len(planned) - 1]
    return Outcome((line,), record={"run": str(folder), **entry["result"]})


OURS = (
    "metrics.jsonl",
    "checkpoint.safetensors",
    "snapshots",
    "tensorboard",
    "model.safetensors",
    "recipe.yaml",
)


def identities(run: Run) -> list[dict[str, Any]]:
    """Return the identity of every step of a run's history."""
    return [identity(entry["do"], entry["config"]) for entry in run.history]


class Stopwatch:
    """Time since construction, in seconds."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Return the elapsed seconds."""
        return time.perf_counter() - self._start


def percent(value: float | None) -> str:
    """Write a fraction as percent with two decimals."""
    return "–" if value is None else f"{100 * value:.2f} %"


def require(condition: bool, message: str) -> None:
    """Raise `InputError` with `message` unless `condition`."""
    if not condition:
        raise InputError(message)
