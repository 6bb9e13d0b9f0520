"""The small data sets of the pruning literature, in the file layout of torchvision.

Digits is part of scikit-learn. The others are read from the root; torchvision downloads missing ones and verifies
their checksums. CIFAR is read from parquet files (`ROOT/cifar10/train-*.parquet`) if there are any, otherwise from
the original archive, whose checksums are verified before any of its files is opened.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import DataError
from secateur.core.extras import need
from secateur.data.dataset import Dataset, Split, pixel_statistics
from secateur.data.registry import Constants, Request, source
from secateur.data.sampling import balanced_order, generator

DOWNLOAD_TIMEOUT = 15.0  # seconds without an answer
DIGITS_TEST = 360


@source("digits", summary="scikit-learn's 1,797 handwritten digits, 1×8×8; needs no download")
def digits(request: Request) -> Dataset:
    """Read the digits, grey levels 0..16 spread over 0..255; 36 of each class are held out for testing."""
    need("sklearn", for_="The data set digits")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    images = (torch.from_numpy(bunch.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    everything = Split(images, labels)
    order = balanced_order(labels, generator("digits"))
    train, test = everything.select(order[DIGITS_TEST:].sort().values), everything.select(order[:DIGITS_TEST])
    return _sized(
        Dataset("digits", train, test, _numbers(10), *pixel_statistics(_images(train)), "shift"), request
    )


@source("mnist", summary="MNIST: 60,000 + 10,000 handwritten digits, 1×28×28")
def mnist(request: Request) -> Dataset:
    """Read ROOT/MNIST/raw."""
    return _torchvision(request, "MNIST", ((0.1307,), (0.3081,)), "shift", _numbers(10))


@source("fashion-mnist", summary="Fashion-MNIST: 60,000 + 10,000 pictures of clothes, 1×28×28")
def fashion_mnist(request: Request) -> Dataset:
    """Read ROOT/FashionMNIST/raw."""
    return _torchvision(request, "FashionMNIST", ((0.2860,), (0.3530,)), "flip")


@source("cifar10", summary="CIFAR-10: 50,000 + 10,000 photographs of 10 classes, 3×32×32")
def cifar10(request: Request) -> Dataset:
    """Read ROOT/cifar10/*.parquet, else ROOT/cifar-10-batches-py."""
    return _cifar(request, "CIFAR10", ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))


@source("cifar100", summary="CIFAR-100: 50,000 + 10,000 photographs of 100 classes, 3×32×32")
def cifar100(request: Request) -> Dataset:
    """Read ROOT/cifar100/*.parquet, else ROOT/cifar-100-python."""
    return _cifar(request, "CIFAR100", ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)))


def _cifar(request: Request, loader: str, constants: Constants) -> Dataset:
    folder = request.root / request.name
    if not any(folder.glob("train-*.parquet")):
        return _torchvision(request, loader, constants, "crop-flip")
    from secateur.data.tables import parquet

    dataset = parquet(dataclasses.replace(request, argument=str(folder)))
    return dataclasses.replace(dataset, augmentation="crop-flip").with_normalisation(*constants)


def _torchvision(
    request: Request,
    loader: str,
    constants: Constants,
    augmentation: str,
    classes: tuple[str, ...] | None = None,
) -> Dataset:
    """Read both splits with the class `loader` of torchvision.datasets."""
    need("torchvision", for_=f"The data set {request.name}")
    from torchvision import datasets

    kind = getattr(datasets, loader)
    with _explained(request):
        halves = [_half(kind, request.root, train, request.download) for train in (True, False)]
    (train, found), (test, _) = halves
    return _sized(Dataset(request.name, train, test, classes or found, *constants, augmentation), request)


def _half(kind: Any, root: Path, train: bool, download: bool) -> tuple[Split, tuple[str, ...]]:
    """Return one split and the class names; only missing files are downloaded."""
    try:
        data = kind(root, train=train, download=False)
    except RuntimeError:
        if not download:
            raise
        with _timeout(DOWNLOAD_TIMEOUT):
            data = kind(root, train=train, download=True)
    pixels = torch.as_tensor(data.data)
    images = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.as_tensor(data.targets, dtype=torch.int64)), tuple(data.classes)


@contextmanager
def _explained(request: Request) -> Iterator[None]:
    """Turn torchvision's exceptions into a `DataError` that names the folder and the way out."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AssertionError, KeyError, EOFError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        failure = "or download it" if request.download else "and downloading is switched off"
        raise DataError(
            f"Cannot read {request.name} under {request.root}, {failure} ({reason}): put the complete files "
            "there, deleting damaged ones first, or allow the download."
        ) from error


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Set the default timeout of new sockets to `seconds` within the block."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _sized(dataset: Dataset, request: Request) -> Dataset:
    """Scale the images to the requested size, if any."""
    if request.image_size is None or dataset.input_shape == (
        len(dataset.mean or ()),
        *(request.image_size,) * 2,
    ):
        return dataset
    from secateur.data.images import resized

    train, test = (resized(split, request.image_size) for split in (dataset.train, dataset.test))
    return dataclasses.replace(dataset, train=train, test=test)


def _images(split: Split) -> Tensor:
    assert isinstance(split.inputs, Tensor)
    return split.inputs


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))
