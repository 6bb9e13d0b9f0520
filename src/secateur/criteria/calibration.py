"""Calibration data, with a cache of the statistics measured on them.

Scores from a model's activations or gradients cost a pass over the data. `Calibration` keeps the results, so that
another amount, or another attempt at the same cut, costs no pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.core.errors import InputError
from secateur.core.modules import named_buffers, named_parameters
from secateur.core.progress import track
from secateur.core.seeds import generators_kept, same_draws
from secateur.measure.inputs import batch_size

if TYPE_CHECKING:
    from secateur.data import Dataset

CalibrationBatch: TypeAlias = tuple[Any, Tensor | None]


def balanced(dataset: Dataset, per_class: int = 10, seed: int = 0) -> list[tuple[Any, Tensor]]:
    """Return one batch of training samples, `per_class` of every class, for `prune(..., data=...)`.

    The classes alternate, so that equal parts of the batch are balanced too, up to remainders. The default of ten per
    class is that of the papers of SNIP and GraSP. Raises `InputError` if a class has fewer samples.
    """
    chosen = dataset.subset(train=per_class * dataset.num_classes, seed=seed).train
    counts = chosen.labels.bincount(minlength=dataset.num_classes)
    if int(counts.min()) < per_class:
        rare = dataset.classes[int(dataset.train.labels.bincount(minlength=dataset.num_classes).argmin())]
        raise InputError(
            f"The class {rare} of {dataset.name} has fewer than {per_class} training samples: "
            "choose a smaller per_class."
        )
    return [(dataset.normalised(chosen.inputs), chosen.labels)]


class Calibration:
    """Batches of inputs and labels, and a cache of the statistics measured on them.

    Accepted as `data=` in place of batches: a second cut of the same model reuses its statistics, until the model's
    tensors change. Batches with a length, such as a list or a DataLoader, are iterated for each measurement; an
    iterator is read once and kept. Raises `InputError` for data that are not iterable.

    >>> data = Calibration([(torch.ones(4, 3), None), (torch.ones(2, 3), None)])
    >>> [len(inputs) for inputs, _ in data]
    [4, 2]
    """

    def __init__(self, batches: Iterable[CalibrationBatch]) -> None:
        if not isinstance(batches, Iterable):
            raise InputError(f"The data is a {type(batches).__name__}: pass batches of inputs and labels.")
        if not _repeatable(batches):
            with same_draws():
                batches = list(batches)
        self._batches: Iterable[CalibrationBatch] = batches
        self._size = len(batches)  # type: ignore[arg-type]
        self._model = ""
        self._found: dict[str, dict[Any, Any]] = {}

    @classmethod
    def of(cls, data: Iterable[CalibrationBatch]) -> Calibration:
        """Return `data` itself if it is a `Calibration`, otherwise one of its batches."""
        return data if isinstance(data, cls) else cls(data)

    def __repr__(self) -> str:
        return f"Calibration({self._size} batches, {sum(map(len, self._found.values()))} statistics measured)"

    def __iter__(self) -> Iterator[CalibrationBatch]:
        """Yield pairs of inputs and labels, without empty batches. Raises `InputError` for a batch that is no pair.

        A data loader's own generator has its state of before afterwards, so that all passes have one order.
        """
        with generators_kept(self._batches):
            for batch in self._batches:
                if not isinstance(batch, tuple | list) or len(batch) != 2:
                    raise InputError(
                        "A batch of calibration data is a pair of inputs and labels: pass (inputs, labels)."
                    )
                if not _empty(batch[0]):
                    yield batch[0], batch[1]

    def __len__(self) -> int:
        """Return the number of batches. Raises `InputError` if it is 0."""
        if not self._size:
            raise InputError("The data holds no batch: pass batches of inputs and labels as data=.")
        return self._size

    def digest(self) -> str:
        """Return the SHA-256 of all inputs and labels in their order, in hexadecimal."""
        digest = hashlib.sha256()
        with same_draws():
            batches = list(self)
        for leaf in tree_leaves(batches):
            _update(digest, "", leaf) if isinstance(leaf, Tensor) else digest.update(repr(leaf).encode())
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the number of samples and their digest, as JSON."""
        with same_draws():
            samples = sum(batch_size(inputs) for inputs, _ in self)
        return {"samples": samples, "sha256": self.digest()}

    def tracked(self, title: str) -> Iterator[CalibrationBatch]:
        """Yield the batches under a progress bar. Raises `InputError` without a sample."""
        none = True
        for batch in track(self, title, len(self)):
            none = False
            yield batch
        if none:
            raise InputError("The data holds no batch: pass batches of inputs and labels as data=.")

    def found(self, model: nn.Module, what: str) -> dict[Any, Any]:
        """Return the cache of one sort of measurement on `model`, a mutable dict; new tensors empty all caches."""
        digest = _digest(model)
        if digest != self._model:
            self._model, self._found = digest, {}
        return self._found.setdefault(what, {})


def _repeatable(batches: Iterable[CalibrationBatch]) -> bool:
    """Whether batches have a length and can be gone through again; iterators of loaders have a length too."""
    try:
        len(batches)  # type: ignore[arg-type]
    except TypeError:
        return False
    return not isinstance(batches, Iterator)


def _empty(inputs: Any) -> bool:
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim]
    return bool(tensors) and all(len(tensor) == 0 for tensor in tensors)


def _digest(model: nn.Module) -> str:
    """Return the SHA-256 of a model's class and tensors."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in (*named_parameters(model), *named_buffers(model)):
        _update(digest, name, tensor)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
