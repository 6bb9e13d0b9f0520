"""The standard data sets read from small files of the layouts they are published in."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from secateur import data
from secateur.core.errors import DataError


def drawn(count: int, *shape: int, classes: int = 10) -> tuple[np.ndarray, list[int]]:
    """Draw images and labels; every class is there where there are enough of them."""
    images = np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)
    return images, [number % classes for number in range(count)]


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_files_of_images_and_labels_as_mnist_has_them(name: str, folder: str, tmp_path: Path) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    halves = {"train": drawn(30, 28, 28), "t10k": drawn(20, 28, 28)}
    for half, (images, labels) in halves.items():
        sizes = struct.pack(">IIII", 2051, *images.shape)
        (raw / f"{half}-images-idx3-ubyte").write_bytes(sizes + images.tobytes())
        (raw / f"{half}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, len(labels)) + bytes(labels))
    loaded = data.load(name, tmp_path, download=False)
    for split, (images, labels) in zip((loaded.train, loaded.test), halves.values(), strict=True):
        assert torch.equal(split.inputs, torch.from_numpy(images)[:, None])
        assert split.labels.tolist() == labels
    assert (loaded.input_shape, loaded.num_classes) == ((1, 28, 28), 10)
    assert loaded.mean == {"mnist": (0.1307,), "fashion-mnist": (0.2860,)}[name]


KINDS = {
    "cifar10": (torchvision.datasets.CIFAR10, "labels", 10, 0.4914),
    "cifar100": (torchvision.datasets.CIFAR100, "fine_labels", 100, 0.5071),
}


def written(path: Path, content: dict[str, object]) -> str:
    """Write a file of the archive, and return its checksum."""
    path.write_bytes(pickle.dumps(content, protocol=2))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", KINDS)
def test_the_archive_of_cifar(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, key, classes, red = KINDS[name]
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    halves: list[list[tuple[np.ndarray, list[int]]]] = []
    for files in ("train_list", "test_list"):
        named = [file for file, _ in getattr(kind, files)]
        parts = [drawn(100 + number, 3, 32, 32, classes=classes) for number in range(len(named))]
        sums = [
            written(folder / file, {"data": images.reshape(len(images), -1), key: labels})
            for file, (images, labels) in zip(named, parts, strict=True)
        ]
        monkeypatch.setattr(kind, files, [list(pair) for pair in zip(named, sums, strict=True)])
        halves.append(parts)
    about = {kind.meta["key"]: [f"class {number}" for number in range(classes)]}
    md5 = written(folder / kind.meta["filename"], about)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5})
    loaded = data.load(name, tmp_path, download=False)
    for split, parts in zip((loaded.train, loaded.test), halves, strict=True):
        assert torch.equal(split.inputs, torch.from_numpy(np.concatenate([images for images, _ in parts])))
        assert split.labels.tolist() == [label for _, labels in parts for label in labels]
    assert loaded.classes == tuple(about[kind.meta["key"]])
    assert loaded.mean[0] == red
    (folder / kind.meta["filename"]).write_bytes(b"other bytes")
    with pytest.raises(DataError, match="corrupted"):
        data.load(name, tmp_path, download=False)
