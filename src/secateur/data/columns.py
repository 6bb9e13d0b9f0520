"""Conversion of two Arrow tables, for training and testing, into images or tokens with labels.

Columns are recognised by type and name: encoded images are binary columns (or structs with a field `bytes`, as on
the Hugging Face hub), texts and labels have one of the names below.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.core.errors import DataError, InputError
from secateur.core.extras import need
from secateur.data.dataset import Dataset, DatasetInputs, Split, pixel_statistics
from secateur.data.registry import Request

if TYPE_CHECKING:
    import pyarrow as pa

LABELS = ("label", "labels", "fine_label")
TEXTS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text", "text_pair"),
    ("text",),
    ("sentence",),
)


def assemble(request: Request, train: pa.Table, test: pa.Table) -> Dataset:
    """Build the data set from its two tables; images take precedence over texts.

    Raises `DataError` if there is no label column, neither images nor texts, or the content doesn't fit;
    `InputError` for text without a tokenizer; `MissingExtraError` for text without transformers.
    """
    train_labels, test_labels, classes = _labels(request, train, test)
    types = dict(zip(train.schema.names, train.schema.types, strict=True))
    texts = next((names for names in TEXTS if all(_is_text(types.get(name)) for name in names)), None)
    image = next((name for name in types if _holds_images(types[name])), None)
    if image is None and texts is None:
        raise DataError(
            f"{request.name} has the columns {', '.join(types)}, none of which holds images or texts: "
            "name the text column text or sentence, or store the encoded images as binary."
        )
    missing = [name for name in ([image] if image else texts or ()) if name not in test.column_names]
    if missing:
        raise DataError(
            f"The test split of {request.name} lacks the column {missing[0]}: make the columns agree."
        )
    if image is not None:
        images = _images(request, train[image], test[image])
        halves = Split(images[: len(train)], train_labels), Split(images[len(train) :], test_labels)
        return Dataset(request.name, *halves, classes, *pixel_statistics(images[: len(train)]), "flip")
    assert texts is not None
    encode = _tokenizer(request)
    tokens = [encode(*(table[name].to_pylist() for name in texts)) for table in (train, test)]
    return Dataset(
        request.name, Split(tokens[0], train_labels), Split(tokens[1], test_labels), classes, None, None
    )


def labelled(table: pa.Table) -> bool:
    """Tell whether the table has a label column with another value than −1, which marks hidden labels."""
    import pyarrow as pa

    name = next((name for name in LABELS if name in table.column_names), None)
    return name is not None and not (
        pa.types.is_integer(table[name].type) and set(table[name].unique().to_pylist()) == {-1}
    )


def _labels(request: Request, train: pa.Table, test: pa.Table) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return the labels of both splits and the class names; textual labels are numbered alphabetically."""
    import pyarrow as pa

    name = next((name for name in LABELS if name in train.column_names and name in test.column_names), None)
    if name is None:
        raise DataError(
            f"{request.name} has the columns {', '.join(train.column_names)}, none of which is named "
            f"{' or '.join(LABELS)} in both splits: name the label column so."
        )
    kind = train[name].type
    if test[name].type != kind:
        raise DataError(
            f"The column {name} of {request.name} differs in type between the splits: make them agree."
        )
    halves = [train[name].to_pylist(), test[name].to_pylist()]
    if any(None in half for half in halves):
        raise DataError(f"The column {name} of {request.name} has gaps: give every row a label.")
    if _is_text(kind):
        classes = tuple(sorted(set(halves[0])))
        if unknown := sorted(set(halves[1]) - set(classes)):
            raise DataError(
                f"The test split of {request.name} holds the class {unknown[0]}, which training lacks."
            )
        number = {label: index for index, label in enumerate(classes)}
        halves = [[number[label] for label in half] for half in halves]
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        highest = max(map(max, filter(None, halves)), default=0)
        if highest >= max(len(train), 2):
            raise DataError(
                f"The labels of {request.name} run up to {highest} for {len(train)} rows: number them from 0."
            )
        classes = _class_names(train.schema, name) or tuple(map(str, range(highest + 1)))
    else:
        raise DataError(
            f"The column {name} of {request.name} holds {kind}: labels must be whole numbers or texts."
        )
    labels = [torch.tensor(half, dtype=torch.int64) for half in halves]
    return labels[0], labels[1], classes


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """Return the class names stored by the `datasets` library in an Arrow schema; () if there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def _images(request: Request, *columns: pa.ChunkedArray) -> Tensor:
    """Decode the images of all columns together, so that they agree in size and channels."""
    from secateur.data.images import decode

    cells = [cell for column in columns for cell in column.to_pylist()]
    items: list[Any] = [
        (cell["bytes"] or cell.get("path")) if isinstance(cell, dict) else cell for cell in cells
    ]
    if None in items:
        raise DataError(f"Image {items.index(None)} of {request.name} is missing: remove its row.")
    return decode(items, request.name, request.image_size)


def _tokenizer(request: Request) -> Any:
    """Return a function from texts (one or two lists) to token tensors, padded to the longest of them."""
    if request.tokenizer is None:
        raise InputError(
            f"{request.name} is text: name a tokenizer, as a folder or an id of the Hugging Face hub."
        )
    library = need("transformers", extra="transformers", for_="Reading text")
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(
            request.tokenizer, trust_remote_code=False, local_files_only=not request.download
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"Cannot load the tokenizer {request.tokenizer} ({reason}): give the folder or hub id of one."
        ) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise DataError(f"The tokenizer {request.tokenizer} has no padding token: choose one that has.")
        tokenizer.pad_token = tokenizer.eos_token

    def encode(*texts: list[str | None]) -> DatasetInputs:
        if any(None in column for column in texts):
            raise DataError(f"Some texts of {request.name} are missing: remove their rows.")
        encoded = tokenizer(
            *texts, truncation=True, max_length=request.max_length, padding="longest", return_tensors="pt"
        )
        return dict(encoded)

    return encode


def _holds_images(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType | None) -> bool:
    import pyarrow as pa

    return kind is not None and bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
