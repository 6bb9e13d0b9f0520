"""Which samples criteria look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from secateur.errors import InputError

if TYPE_CHECKING:
    from secateur.data import Dataset


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
