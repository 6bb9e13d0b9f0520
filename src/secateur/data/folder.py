"""Image folders: one sub-folder per class, the layout of torchvision's ImageFolder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from secateur.core.errors import DataError
from secateur.data.dataset import Dataset, Split, pixel_statistics
from secateur.data.registry import Request, source
from secateur.data.sampling import generator, held_out

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
TRAIN, TEST = ("train", "training"), ("test", "val", "validation")


@source(
    "folder", argument="PATH", summary="images in class folders, under train/ and test/ (or val/), or unsplit"
)
def folder(request: Request) -> Dataset:
    """Read PATH/train/CLASS/* and PATH/test/CLASS/* (val, validation), as RGB.

    Without split folders, a fifth of each class of PATH/CLASS/* is held out, the same at every call. Raises
    `DataError` for a missing folder, split, class or image.
    """
    from secateur.data.images import decode

    top = Path(request.argument).expanduser()
    if not top.is_dir():
        raise DataError(f"Cannot read images from {top}: there is no such folder; check the path.")
    train, test = _either(top, TRAIN), _either(top, TEST)
    if (train is None) != (test is None):
        raise DataError(
            f"{top} holds only one of train/ and test/ (or val/, validation/): add the other, or name the "
            "folder that holds the class folders, of which a fifth will then be held out."
        )
    files, labels, classes = _unsplit(top) if train is None or test is None else _split(train, test)
    images = decode([path for half in files for path in half], str(top), request.image_size, "RGB")
    count = len(files[0])
    halves = Split(images[:count], labels[:count]), Split(images[count:], labels[count:])
    return Dataset(request.name, *halves, classes, *pixel_statistics(images[:count]), "flip")


Listing = tuple[
    tuple[list[Path], list[Path]], Tensor, tuple[str, ...]
]  # files of both splits, labels, classes


def _unsplit(top: Path) -> Listing:
    """Hold out a fifth of each class of one tree."""
    files, labels, classes = _scan(top)
    mask = held_out(torch.tensor(labels), 0.2, generator("held out"))
    if not mask.any():
        raise DataError(
            f"{top} holds too few images to keep some for testing: split it into train/ and test/."
        )
    rows = (~mask).nonzero().flatten().tolist(), mask.nonzero().flatten().tolist()
    train, test = ([files[row] for row in half] for half in rows)
    return (train, test), torch.tensor(labels)[torch.tensor(rows[0] + rows[1])], classes


def _split(train: Path, test: Path) -> Listing:
    """Take the classes of the training tree; the test tree may lack some of them."""
    files, labels, classes = _scan(train)
    more, numbers, found = _scan(test)
    if unknown := sorted(set(found) - set(classes)):
        raise DataError(f"{test} holds the class {unknown[0]}, which {train} lacks: make the classes agree.")
    return (files, more), torch.tensor(labels + [classes.index(found[number]) for number in numbers]), classes


def _scan(top: Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """List the images below the class folders of `top`, their labels and the class names, in sorted order."""
    kinds = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not kinds:
        raise DataError(f"{top} holds no class folders: sort the images into one sub-folder per class.")
    files: list[Path] = []
    labels: list[int] = []
    for label, kind in enumerate(kinds):
        found = sorted(path for path in kind.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            endings = ", ".join(sorted(SUFFIXES))
            raise DataError(f"The class folder {kind} holds no images ({endings}): add some or remove it.")
        files += found
        labels += [label] * len(found)
    return files, labels, tuple(kind.name for kind in kinds)


def _either(top: Path, names: tuple[str, ...]) -> Path | None:
    return next((top / name for name in names if (top / name).is_dir()), None)
