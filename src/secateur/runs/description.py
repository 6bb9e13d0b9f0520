"""The JSON of a run folder by its types: every file in it may be damaged, edited, or another program's.

Fields that are not listed are kept as they are; nothing of ours computes with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from secateur.core.errors import StoreError

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
CountChange = Annotated[list[Count], Field(min_length=2, max_length=2)]
"""[before, after] of a count."""


class FileRecord(BaseModel):
    """A JSON object of a file: no text for a number, no NaN."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")


class GroupRecord(FileRecord):
    """A group of units before and after a cut."""

    name: str
    units: Count
    kept: Count
    through: str = ""


class ResultRecord(FileRecord):
    """The numbers of one step."""

    loss: float | None = None
    top1: Fraction | None = None
    top5: Fraction | None = None
    cut: Fraction | None = None
    requested: float | None = None
    achieved: Fraction = 0.0
    pruned: Count = 0
    prunable: Count = 0
    parameters: CountChange = [0, 0]
    macs: CountChange = [0, 0]
    groups: list[GroupRecord] = []

    @model_validator(mode="after")
    def _counted(self) -> ResultRecord:
        """A cut of units has counted parameters and MACs, and left something out of something."""
        counted = {"parameters", "macs"} <= self.model_fields_set and self.parameters[0] > 0
        if "groups" in self.model_fields_set and not counted:
            raise ValueError("groups without parameters and macs")
        return self


class ConfigRecord(FileRecord):
    """The settings of one step; its own class checks the others where it needs them."""

    model: str | None = None
    data: str | None = None
    model_args: dict[str, Any] | None = None
    criterion: str | None = None
    granularity: str | None = None
    scope: str | None = None
    compensation: str | None = None
    start: str | None = None
    level: float | None = None


class EntryRecord(FileRecord):
    """One step of a history."""

    do: str
    run: str
    config: ConfigRecord
    result: ResultRecord
    seconds: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    weights: str | None = None


class ModelRecord(FileRecord):
    """The name of a model, and the arguments of its factory."""

    name: str
    args: dict[str, Any] | None = None


class DataRecord(FileRecord):
    """The arguments of `secateur.data.load`."""

    model_config = ConfigDict(extra="forbid")
    name: str
    root: str | None = None
    normalize: str | None = None
    image_size: Annotated[int, Field(ge=1)] | None = None
    tokenizer: str | None = None
    max_length: Annotated[int, Field(ge=1)] = 128
    subset: Annotated[list[int | None], Field(min_length=2, max_length=2)] | None = None
    download: bool = True


class PreparationRecord(FileRecord):
    """The preparation of a run's data; see `Dataset.preparation`."""

    mean: list[float] | None
    std: list[Annotated[float, Field(gt=0)]] | None
    size: Annotated[list[Count], Field(min_length=2, max_length=2)] | None
    classes: list[str]

    @model_validator(mode="after")
    def _paired(self) -> PreparationRecord:
        """As many means as deviations."""
        if len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std differ in length")
        return self


class RunRecord(FileRecord):
    """The content of run.json."""

    format: int
    model: ModelRecord
    data: DataRecord
    input_shape: Annotated[list[Annotated[int, Field(ge=1, lt=2**31)]], Field(max_length=8)] | None
    num_classes: Annotated[int, Field(ge=1, lt=2**31)]
    preparation: PreparationRecord | None = None
    history: Annotated[list[EntryRecord], Field(min_length=1)]


class MetricsRecord(FileRecord):
    """A row of metrics.jsonl."""

    step: Count
    do: str
    epoch: Annotated[float, Field(ge=0, le=1e12)]
    iteration: Count
    loss: float | None = None
    top1: Fraction | None = None
    train_loss: float | None = None
    train_top1: Fraction | None = None


class PointRecord(FileRecord):
    """A point of the front of a safe rate."""

    rate: Fraction
    cosine: float


class KurtosisRecord(FileRecord):
    """The kurtosis of one tensor."""

    name: str
    kurtosis: float
    size: Count


class ExcludedRecord(FileRecord):
    """A tensor without a kurtosis."""

    name: str
    reason: str


class SafeRateRecord(FileRecord):
    """The content of safe_rate.json."""

    weights: str | None
    safe: Fraction
    optimum: Fraction
    safe_cosine: float
    optimum_cosine: float
    kurtosis_of_kurtoses: float | None = None
    modifier: float | None = None
    parameters: Count
    curve: Annotated[list[PointRecord], Field(min_length=1)]
    kurtoses: list[KurtosisRecord] = []
    excluded: list[ExcludedRecord] = []
    notes: list[str] = []


def is_a(kind: type[FileRecord], content: Any) -> bool:
    """Whether a value read from JSON is a record of this kind."""
    try:
        kind.model_validate(content)
    except ValidationError:
        return False
    return True


def checked(kind: type[FileRecord], content: Any, path: Path, remedy: str, place: str = "") -> dict[str, Any]:
    """Return the content of a JSON file, or the part of it at `place`, if it is a record of this kind.

    Raises `StoreError` with the first value that isn't, and the `remedy`.
    """
    try:
        kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(filter(None, [place, *map(str, first["loc"])])) or "its content"
        reason = first["msg"][0].lower() + first["msg"][1:]
        raise StoreError(
            f"Cannot read {path}: {where} is not as secateur wrote it ({reason}): {remedy}."
        ) from None
    found: dict[str, Any] = content
    return found
