"""Calibration data: which samples criteria look at, and what was found on them.

Scores that come from running a model on data cost a pass over them. `Calibration` holds the data together with what
was measured, so that another amount, or another attempt at the same cut, costs none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.core.errors import InputError
from secateur.core.progress import track
from secateur.measure.inputs import batch_size

if TYPE_CHECKING:
    from secateur.data import Dataset

CalibrationBatch: TypeAlias = tuple[Any, Tensor | None]


def balanced(dataset: Dataset, per_class: int = 10, seed: int = 0) -> list[tuple[Any, Tensor]]:
    """Return one batch of training samples, `per_class` of every class, for `prune(..., data=...)`.

    The classes take turns, so that equal parts of the batch are balanced too as far as they go. SNIP and GraSP
    were published with ten a class. Raises `InputError` where a class has fewer.
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
    """Batches of inputs and labels, and what was measured on them.

    Pass it as `data=` wherever batches are taken: a second cut of the same model finds its statistics. They are
    forgotten when the model's tensors change. What has a length, such as a list or a DataLoader, is gone through for
    each measurement; anything else is read once and kept.

    >>> data = Calibration([(torch.ones(4, 3), None), (torch.ones(2, 3), None)])
    >>> [len(inputs) for inputs, _ in data]
    [4, 2]
    """

    def __init__(self, batches: Iterable[CalibrationBatch]) -> None:
        if not isinstance(batches, Iterable):
            raise InputError(f"The data is a {type(batches).__name__}: pass batches of inputs and labels.")
        try:
            self._size = len(batches)  # type: ignore[arg-type]
        except TypeError:
            batches = list(batches)
            self._size = len(batches)
        self._batches = batches
        self._model = ""
        self._found: dict[str, dict[Any, Any]] = {}

    @classmethod
    def of(cls, data: Iterable[CalibrationBatch]) -> Calibration:
        """Return `data` itself where it is calibration data, else what holds them."""
        return data if isinstance(data, cls) else cls(data)

    def __iter__(self) -> Iterator[CalibrationBatch]:
        """Yield pairs of inputs and labels. Raises `InputError` for a batch that is none."""
        for batch in self._batches:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise InputError(
                    "A batch of calibration data is a pair of inputs and labels: pass (inputs, labels)."
                )
            if not _empty(batch[0]):
                yield batch[0], batch[1]

    def __len__(self) -> int:
        """Return the number of batches. Raises `InputError` where there is none."""
        if not self._size:
            raise InputError("The data holds no batch: pass batches of inputs and labels as data=.")
        return self._size

    def digest(self) -> str:
        """Return the SHA-256 of all inputs and labels, batch by batch: which data these are, in which order."""
        digest = hashlib.sha256()
        for leaf in tree_leaves(list(self)):
            _update(digest, "", leaf) if isinstance(leaf, Tensor) else digest.update(repr(leaf).encode())
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return how many samples there are, and their digest."""
        return {"samples": sum(batch_size(inputs) for inputs, _ in self), "sha256": self.digest()}

    def tracked(self, title: str) -> Iterator[CalibrationBatch]:
        """Yield the same under a progress bar. Raises `InputError` where there is no sample."""
        none = True
        for batch in track(self, title, len(self)):
            none = False
            yield batch
        if none:
            raise InputError("The data holds no batch: pass batches of inputs and labels as data=.")

    def found(self, model: nn.Module, what: str) -> dict[Any, Any]:
        """Return where to keep what is measured of `model` for one purpose; that of other tensors is forgotten."""
        digest = _digest(model)
        if digest != self._model:
            self._model, self._found = digest, {}
        return self._found.setdefault(what, {})


def _empty(inputs: Any) -> bool:
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim]
    return bool(tensors) and all(len(tensor) == 0 for tensor in tensors)


def _digest(model: nn.Module) -> str:
    """Return what tells a model's tensors, and its class, from others."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        _update(digest, name, tensor)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
