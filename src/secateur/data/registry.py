"""Registry of data sources, and `load`, which turns a name into a `Dataset`.

A source is a function from a `Request` to a `Dataset`, registered with `@source`. A plain source is written by
its name (`mnist`), a source with an argument as `folder:PATH`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from secateur.core.errors import InputError
from secateur.core.registry import Registry
from secateur.data.dataset import Dataset, positive
from secateur.data.held import once

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Constants = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Request:
    """Arguments of a data source.

    `name` is the user's full text, `argument` the part after its colon (empty for plain sources), `root` the
    folder of the named data sets. `download` allows the network, `image_size` is the side of the images in pixels
    (None: as they are), `tokenizer` a path or hub id, `max_length` the most tokens a text keeps.
    """

    name: str
    argument: str
    root: Path
    download: bool
    image_size: int | None
    tokenizer: str | None
    max_length: int


@dataclass(frozen=True)
class DataSource:
    """Entry of `DATA`: a reader and, for a source with an argument, its placeholder in listings (PATH, NAME)."""

    read: Callable[[Request], Dataset]
    summary: str
    argument: str | None


DATA: Registry[DataSource] = Registry("data set")


def source(
    name: str, *, summary: str, argument: str | None = None
) -> Callable[[Callable[[Request], Dataset]], Callable[[Request], Dataset]]:
    """Register the decorated function as the data source `name`; `argument` is the placeholder after its colon."""

    def register(read: Callable[[Request], Dataset]) -> Callable[[Request], Dataset]:
        DATA.add(name, DataSource(read, summary, argument))
        return read

    return register


def names() -> list[tuple[str, str]]:
    """List the names that `load` accepts, as (name, summary); a source with an argument reads `folder:PATH`."""
    return [
        (name if entry.argument is None else f"{name}:{entry.argument}", entry.summary)
        for name, entry in DATA.items()
    ]


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    normalize: str | None = None,
    download: bool = True,
    image_size: int | None = None,
    tokenizer: str | None = None,
    max_length: int = 128,
    subset: int | tuple[int | None, int | None] | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a data set by name: `digits`, `mnist`, `cifar10`, `folder:PATH`, … (`names` lists them).

    `root` holds the named data sets; the default is the environment variable SECATEUR_DATA, else
    ~/.cache/secateur/data. Missing files are downloaded unless `download` is False. `normalize` is None (the
    published constants of the data set, or those of its training images), "imagenet", "none", or a pair
    "m1,m2,m3/s1,s2,s3" for pixels in 0..1. `image_size` scales the shorter side and crops the centre. Text needs a
    `tokenizer` (folder or hub id) and is cut after `max_length` tokens. `subset` is the most examples of each split
    (or a pair: training, test), chosen class-balanced by `seed`; None keeps all.

    Raises `InputError` for unknown names and invalid arguments, `DataError` if the data are missing or
    unreadable, `MissingExtraError` if an optional package is missing.
    """
    kind, colon, argument = name.partition(":")
    entry = DATA[kind]
    if entry.argument is None and colon:
        raise InputError(f"The data set {kind} takes nothing after a colon: write {kind}.")
    if entry.argument is not None and not argument:
        raise InputError(f"The data source {kind} needs to know where: write {kind}:{entry.argument}.")
    if image_size is not None:
        positive("image size", image_size)
    constants = None if normalize is None else normalisation(normalize)
    request = Request(
        name=name,
        argument=argument,
        root=Path(root or os.environ.get("SECATEUR_DATA") or "~/.cache/secateur/data").expanduser(),
        download=download,
        image_size=image_size,
        tokenizer=tokenizer,
        max_length=positive("max_length", max_length),
    )
    dataset = once(request, partial(entry.read, request))
    if dataset.input_shape is None and image_size is not None:
        raise InputError(f"{name} is text, which has no image size: leave it out.")
    if dataset.input_shape is not None and tokenizer is not None:
        raise InputError(f"{name} holds images, which need no tokenizer: leave it out.")
    if constants is not None:
        dataset = dataset.with_normalisation(*constants)
    train, test = subset if isinstance(subset, tuple) else (subset, subset)
    return dataset.subset(train, test, seed)


def normalisation(text: str) -> Constants:
    """Read "imagenet", "none" or "m1,m2,m3/s1,s2,s3" as (means, standard deviations).

    Raises `InputError` for anything else.
    """
    named: dict[str, Constants] = {"imagenet": IMAGENET, "none": ((0.0,), (1.0,))}
    if text in named:
        return named[text]
    try:
        mean, std = (tuple(float(number) for number in half.split(",")) for half in text.split("/"))
    except ValueError:
        mean, std = (), ()
    if not mean or len(mean) != len(std) or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise InputError(
            f"Cannot read the normalisation '{text}': write imagenet, none, or as many means as positive "
            "standard deviations, such as 0.5,0.5,0.5/0.25,0.25,0.25."
        )
    return mean, std
