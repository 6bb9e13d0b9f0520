"""Statistics of batch normalisations between two models: estimated from data, or interpolated.

Interpolated statistics fit no point of the path, since activations are no linear function of the weights. So they are
estimated anew at each point by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.core.contexts import evaluating
from secateur.core.modules import modules_of, parameters_of
from secateur.core.registry import Registry
from secateur.core.seeds import same_draws
from secateur.data import Batches, Dataset
from secateur.data.dataset import positive
from secateur.training.evaluation import logits_of

STATISTICS: Registry[Callable[[nn.Module, Dataset, int, int, int, str | None], None]] = Registry(
    "kind of statistics"
)
"""Name → function that sets a model's statistics in place: (model, data, batches, batch_size, seed, augment)."""


@STATISTICS.register("estimated")
def estimate(
    model: nn.Module,
    data: Dataset,
    batches: int = 50,
    batch_size: int = 128,
    seed: int = 0,
    augment: str | None = None,
) -> None:
    """Set every batch normalisation to the exact mean and variance of its inputs in `batches` training batches.

    The batches are the first `batches` of an epoch of training with this `seed` and augmentation (by default the data
    set's own), at most the whole epoch. Normalisations are in training mode, all other modules in eval mode, so dropout
    is off. Mean and unbiased variance are those of all samples together, summed in float64, not a running average. The
    model is changed in place; without a batch normalisation nothing is computed. Raises `InputError` for `batches`
    below 1.
    """
    norms = _norms(model)
    if not norms:
        return
    sums = {norm: Sums() for norm in norms}
    drawn = Batches(
        data,
        "train",
        batch_size,
        device=next(parameters_of(model)).device,
        shuffle=True,
        seed=seed,
        augment=data.augmentation if augment is None else augment,
        channels_last=True,
    )
    with evaluating(model), same_draws(seed, model), torch.no_grad(), _watched(sums):
        for batch in islice(drawn, positive("number of batches", batches)):
            if len(batch.labels) > 1 or len(drawn) == 1:  # one sample has no variance
                logits_of(model, batch.inputs, data)
    for norm, seen in sums.items():
        if seen.count:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(seen.mean)
            norm.running_var.copy_(seen.squares / (seen.count - 1))


@STATISTICS.register("interpolated")
def interpolated(*_: Any) -> None:
    """Keep the interpolated statistics, mixed as every other tensor."""


def told(model: nn.Module, data: Dataset, statistics: str, batches: int, batch_size: int) -> str:
    """Return a description of a path's statistics: "estimated on 50 training batches of 128"."""
    if not _norms(model):
        return "no batch normalisation"
    if statistics != "estimated":
        return statistics
    number = min(batches, -(-len(data.train) // batch_size))
    return f"{statistics} on {number} training batches of {batch_size}"


class Sums:
    """Count, mean and sum of squared deviations of all samples so far; float64 [channels]."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor = torch.zeros(())
        self.squares: Tensor = torch.zeros(())

    def add(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Add `count` samples of this mean and unbiased variance (Chan, Golub & LeVeque 1979)."""
        mean, squares = mean.double(), variance.double() * (count - 1)
        if self.count:
            total, apart = self.count + count, mean - self.mean
            mean = self.mean + apart * (count / total)
            squares = self.squares + squares + apart.square() * (self.count * count / total)
        self.count, self.mean, self.squares = self.count + count, mean, squares


@contextmanager
def _watched(sums: dict[_BatchNorm, Sums]) -> Iterator[None]:
    """Make normalisations use each batch's own statistics, and add these up in `sums`.

    With a momentum of 1 the running statistics after a pass are those of its batch.
    """

    def add(norm: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        count = inputs[0].numel() // inputs[0].shape[1]
        sums[norm].add(count, norm.running_mean, norm.running_var)

    with ExitStack() as stack:
        for norm in sums:
            stack.callback(setattr, norm, "momentum", norm.momentum)
            stack.enter_context(norm.register_forward_hook(add))
            norm.reset_running_stats()
            norm.momentum = 1.0
            norm.train()
        yield


def _norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch normalisations that have statistics."""
    return [
        module
        for module in modules_of(model)
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
