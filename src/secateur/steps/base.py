"""A step of the road: one validated value that is a recipe entry, a command and a Python call at once.

A step's fields are the recipe's keys and the command's options; `perform` does it. Registering a step class is all
it takes for the command line, the recipe and the documentation to know it. Fields marked `machine` say where and
how a step runs, not what it computes: a run folder made with other machine fields is still the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import to_jsonable_python
from rich.tree import Tree

from secateur import models
from secateur.core.errors import InputError, StoreError
from secateur.core.options import MACHINE, kinds_of
from secateur.core.registry import Registry
from secateur.core.tables import Table
from secateur.core.validation import sentence
from secateur.data import held
from secateur.runs.run import RUN_FILE, Run

SAMPLES = 2
"""How many samples a model is traced on to find its groups."""

ARGUMENT = {"machine": True, "argument": True}

Out = Annotated[str, Field(min_length=1, description="run folder to make", json_schema_extra=MACHINE)]
In = Annotated[str, Field(min_length=1, description="run folder", json_schema_extra=ARGUMENT)]
DataRoot = Annotated[
    str | None,
    Field(description="folder of the data sets; SECATEUR_DATA when left out", json_schema_extra=MACHINE),
]
Overwrite = Annotated[bool, Field(description="replace what the run folder holds", json_schema_extra=MACHINE)]
Trust = Annotated[
    bool,
    Field(description="import the user code (package.module:factory) a run names", json_schema_extra=MACHINE),
]
Evaluate = Annotated[
    bool, Field(description="measure the accuracy on the test split", json_schema_extra=MACHINE)
]


@dataclass(frozen=True)
class Context:
    """Where a step works: relative run folders are taken below `root`; `trust` holds for every step.

    `taken` is there in a recipe only: what its steps so far have left in each folder. By it a step that was done
    already is known even where later steps changed the folder.
    """

    root: Path = Path()
    trust: bool = False
    data_root: str | None = None
    taken: dict[Path, list[dict[str, Any]]] | None = None

    def at(self, name: str) -> Path:
        """Return the path of a run folder or file named in a step."""
        return self.root / name

    def past(self, run: Run) -> list[dict[str, Any]]:
        """Return the identities of the steps behind `run`: all of them or, in a recipe, those it has come to."""
        return (self.taken or {}).get(run.folder.resolve(), identities(run))

    def comes_to(self, folder: Path, planned: list[dict[str, Any]]) -> None:
        """Remember, in a recipe, that its steps have left `planned` in `folder`."""
        if self.taken is not None:
            self.taken[folder.resolve()] = planned

    def check_present(self, run: Run) -> None:
        """Raise `StoreError` where a run has gone on since the recipe's last step there."""
        if identities(run) != self.past(run):
            raise StoreError(
                f"{run.folder} has gone on to {run.title} since the step that this one follows: "
                "take the recipe in another --root."
            )

    def check_code(self, model: str) -> None:
        """Raise `InputError` where a recipe names user code for a model and nobody has allowed it."""
        if self.taken is not None and not self.trust and models.is_user_code(model):
            raise InputError(f"The recipe names the code {model} to build a model: allow it with --trust.")


@dataclass(frozen=True)
class Outcome:
    """What a step has to say: sentences, a table, and the same as plain JSON.

    A tree, where there is one, is what a person sees instead of the table.
    """

    lines: tuple[str, ...] = ()
    table: Table | None = None
    record: Any = None
    tree: Tree | None = None


class Step(BaseModel):
    """Base of all steps."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    do: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        """Take the settings. Raises `InputError` for one that makes no sense."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(sentence(error)) from error

    def perform(self, context: Context) -> Outcome:
        """Do the step."""
        raise AssertionError(f"{type(self).__name__} does nothing")

    def __call__(
        self, root: str | Path = ".", *, trust: bool = False, data_root: str | None = None
    ) -> Outcome:
        """Do the step from Python: `steps.Eval(run="runs/lenet5")()`; run folders lie below `root`."""
        with held():
            return self.perform(Context(Path(root), trust, data_root))

    @classmethod
    def loose_options(cls) -> Mapping[str, str | None]:
        """Return options a step takes beside its fields, with their help; they go into its field `options`.

        None for help hides an option.
        """
        return {}

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, values: Any) -> Any:
        """Let the loose options stand beside the other keys of a recipe."""
        if not isinstance(values, dict):
            return values
        loose = {key: value for key, value in values.items() if key in cls.loose_options()}
        rest = {key: value for key, value in values.items() if key not in loose}
        return {**rest, "options": {**(rest.get("options") or {}), **loose}} if loose else rest

    @model_validator(mode="before")
    @classmethod
    def _no_number_is_true(cls, values: Any) -> Any:
        """Refuse a truth where a number is wanted: pydantic would take it for 0 or 1."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and bool not in kinds_of(field.annotation):
                raise InputError(
                    f"The setting {name} is {str(value).lower()}: give a value, it is no yes or no."
                )
        return values

    def config(self) -> dict[str, Any]:
        """Return what the recipe keeps of this step: every field but the folders it names."""
        names = {"run", "runs", "out", "overwrite", "again", "trust"}
        return self.model_dump(mode="json", exclude=names)

    def identity(self) -> dict[str, Any]:
        """Return what determines the step's result."""
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
    """Return `config` without the machine fields of step `do`; a field it does not know of yet has its default."""
    fields = STEPS[do].model_fields
    machine = {name for name, field in fields.items() if field.json_schema_extra}
    defaults = {
        name: to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in fields.items()
        if not field.is_required()
    }
    return {"do": do, **{key: value for key, value in {**defaults, **config}.items() if key not in machine}}


def is_done(folder: Path, planned: list[dict[str, Any]], overwrite: bool) -> bool:
    """Whether `folder` already holds the result of the `planned` identities (and maybe of steps after them).

    Raises `StoreError` where it holds anything else, unless `overwrite`.
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


def outcome_of(folder: Path, planned: list[dict[str, Any]], line: str) -> Outcome:
    """Return the outcome of a step whose result `folder` holds already, after the `planned` identities."""
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
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds passed."""
        return time.perf_counter() - self._start


def percent(value: float | None) -> str:
    """Write a fraction as percent with two decimals."""
    return "–" if value is None else f"{100 * value:.2f} %"


def require(condition: bool, message: str) -> None:
    """Raise `InputError` with `message` unless `condition`."""
    if not condition:
        raise InputError(message)
