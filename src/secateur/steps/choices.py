"""Settings shared by several steps: data set and model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from secateur import data as data_sources
from secateur.core.options import MACHINE
from secateur.core.registry import Registry
from secateur.criteria import CRITERIA
from secateur.data import Dataset
from secateur.models import check_name
from secateur.pruning.allocate_weights import check_amount
from secateur.steps.base import Context, DataRoot


def registered(registry: Registry[Any]) -> AfterValidator:
    """Return the validator that refuses names missing in `registry`."""

    def check(name: str) -> str:
        registry[name]
        return name

    return AfterValidator(check)


def _source(name: str) -> str:
    """Refuse an unknown data set."""
    data_sources.DATA[name.partition(":")[0]]
    return name


def _model(name: str) -> str:
    """Refuse an unknown built-in model."""
    check_name(name)
    return name


def _amount(amount: Any) -> Any:
    """Refuse a number that is no fraction."""
    return amount if amount is None or isinstance(amount, str | dict) else check_amount(amount)


CriterionName = Annotated[
    str, registered(CRITERIA), Field(description="criterion; secateur criteria lists them")
]
AmountCheck = AfterValidator(_amount)
ModelName = Annotated[str, AfterValidator(_model)]
DataName = Annotated[str, AfterValidator(_source)]


class DataOptions(BaseModel):
    """Preparation of a data set: the arguments of `secateur.data.load` except its name."""

    data_root: DataRoot = None
    normalize: Annotated[
        str | None, Field(description="imagenet, none or mean/std; the data set's own when left out")
    ] = None
    image_size: Annotated[int | None, Field(ge=1, description="side of the images of an image folder")] = None
    tokenizer: Annotated[str | None, Field(description="tokenizer of text data: folder or hub id")] = None
    max_length: Annotated[int, Field(ge=1, description="tokens a text is cut to")] = 128
    train_subset: Annotated[
        int | None, Field(ge=1, description="number of training images, class-balanced; all when left out")
    ] = None
    download: Annotated[bool, Field(description="fetch missing data", json_schema_extra=MACHINE)] = True


class DataChoice(DataOptions):
    """A data set and its preparation: the arguments of `secateur.data.load`."""

    data: Annotated[DataName, Field(description="data set; secateur datasets lists them")]

    def load_data(self, context: Context) -> Dataset:
        """Load the data set."""
        return data_sources.load(**self.data_arguments(context))

    def data_arguments(self, context: Context) -> dict[str, Any]:
        """Return the arguments of `secateur.data.load`."""
        root = context.data_root or self.data_root
        return {
            "name": _absolute(self.data),
            "root": None if root is None else str(Path(root).expanduser().absolute()),
            "normalize": self.normalize,
            "image_size": self.image_size,
            "tokenizer": self.tokenizer,
            "max_length": self.max_length,
            "subset": (self.train_subset, None),
            "download": self.download,
        }


def _absolute(name: str) -> str:
    """Return a data set's name with absolute paths (folder:PATH), valid from any working directory."""
    kind, colon, paths = name.partition(":")
    parts = [Path(part).expanduser() for part in paths.split(",")]
    if not colon or not all(part.exists() for part in parts):
        return name
    return f"{kind}:{','.join(str(part.absolute()) for part in parts)}"


class ModelChoice(BaseModel):
    """A model: a name and the arguments of its factory."""

    model: Annotated[ModelName, Field(description="model; secateur models lists them")]
    model_args: Annotated[
        dict[str, Any], Field(description="argument of the model's factory, as name=value")
    ] = {}


OutputFormat = Annotated[
    Literal["text", "json", "csv", "markdown", "latex"],
    Field(description="text, json, csv, markdown or latex", json_schema_extra=MACHINE),
]
