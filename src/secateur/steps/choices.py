"""Settings shared by several steps: data set and model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field
from torch import nn

from secateur import data as data_sources
from secateur import models
from secateur.core.errors import InputError
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


def check_model_args(arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse arguments that are given by other means."""
    for name, way in (("name", "--model"), ("input_shape", "the data set")):
        if name in arguments:
            raise InputError(f"The model argument {name} is given by {way}: leave it out.")
    return arguments


ModelArgs = Annotated[
    dict[str, Any],
    AfterValidator(check_model_args),
    Field(description="argument of the model's factory, as name=value"),
]


def build_for(name: str, arguments: Mapping[str, Any], data: Dataset) -> nn.Module:
    """Build the model `name` for the data's inputs and classes.

    `arguments` go to its factory; num_classes among them must be that of the data. Raises `InputError` if it isn't,
    and the errors of `secateur.build`.
    """
    given = {key: value for key, value in arguments.items() if key != "num_classes"}
    classes = arguments.get("num_classes", data.num_classes)
    if classes != data.num_classes or isinstance(classes, bool):
        raise InputError(
            f"The model argument num_classes is {classes!r}, but {data.name} has {data.num_classes} classes: leave it "
            "out, it is taken from the data."
        )
    return models.build(name, num_classes=data.num_classes, input_shape=data.input_shape, **given)


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
    model_args: ModelArgs = {}

    @property
    def spec(self) -> dict[str, Any]:
        """Name and arguments of the model, as a run keeps them: its number of classes is another field there."""
        own = {key: value for key, value in self.model_args.items() if key != "num_classes"}
        return {"name": self.model, "args": own}

    def build(self, data: Dataset) -> nn.Module:
        """Build the model for the data's inputs and classes; see `build_for`."""
        return build_for(str(self.model), self.model_args, data)


OutputFormat = Annotated[
    Literal["text", "json", "csv", "markdown", "latex"],
    Field(description="text, json, csv, markdown or latex", json_schema_extra=MACHINE),
]
