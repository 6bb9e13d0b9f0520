"""Correction of the shifts of means and variances inside a model after a cut.

Front to back, the running statistics of every batch normalisation are shifted by the change of its input's mean and
variance, and every bias by the negative change of its product's mean output. Both are differences between two passes
over the same data, so a few batches are enough, and unchanged layers are not corrected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from secateur.compensation.lockstep import Lockstep
from secateur.compensation.registry import Case
from secateur.core.errors import InputError
from secateur.graph.coupling import Coupling
from secateur.graph.probe import TensorPlace
from secateur.importance.products import Norm, Product, Products, channels_last
from secateur.shrink.plan import named_tensors


def correct(case: Case, coupling: Coupling) -> int:
    """Correct the pruned model of a case, and return the number of corrected normalisations and biases.

    For biases see Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction, section
    4.2.

    Cost: a pass of both models for each batch.
    """
    steps = corrections(case, coupling)
    if steps:
        assert case.data is not None
        Lockstep(case.model, case.pruned, case.program, steps).run(case.data, "correction")
    return sum(step.done for step in steps)


def corrections(case: Case, coupling: Coupling, fitted: Collection[str] = ()) -> list[Rescale | Shift]:
    """Return the correction steps of a case, without those directly after the already `fitted` weights."""
    found = Products(coupling)
    products = list(found)
    done = {product.norm.into for product in products if product.norm and product.weight in fitted}
    norms = [norm for node in case.program.evaluation if (norm := found.norm(node)) is not None]
    biases = Counter(product.bias for product in products)
    means = Counter(norm.mean for norm in norms)
    steps: list[Rescale | Shift] = [
        Rescale(case, norm, norm.into)
        for norm in norms
        if norm.into is not None and norm.into not in done and means[norm.mean] == 1
    ]
    steps += [
        Shift(case, product, product.bias)
        for product in products
        if product.bias is not None
        and product.norm is None
        and product.weight not in fitted
        and biases[product.bias] == 1
    ]
    return steps


FEWEST = 16
"""Least number of rows for an estimate of a change of mean and variance."""
CONSTANT = 1e-6
"""Fraction of the former variance below which an input counts as constant, and its variance is not corrected."""


class ChannelMoments:
    """Mean and variance of each channel, float64 [channels], from sums of differences to a first guess of the mean."""

    def __init__(self, near: Tensor) -> None:
        self.near, self.count = near.double(), 0
        self.first, self.second = torch.zeros_like(self.near), torch.zeros_like(self.near)

    def add(self, rows: Tensor) -> None:
        """Add rows, [rows, channels]."""
        apart = rows.double() - self.near
        self.count += len(rows)
        self.first += apart.sum(0)
        self.second += apart.square().sum(0)

    @property
    def enough(self) -> bool:
        """Whether there are at least `FEWEST` rows. Raises `InputError` for NaN or infinity."""
        if not bool(self.second.isfinite().all()):
            raise InputError("The activations on this data hold NaN or infinity: look at the inputs.")
        return self.count >= FEWEST

    @property
    def mean(self) -> Tensor:
        """Mean of each channel."""
        return self.near + self.first / max(1, self.count)

    @property
    def variance(self) -> Tensor:
        """Variance of each channel."""
        count = max(1, self.count)
        return (self.second / count - (self.first / count).square()).clamp(min=0)


class Rescale:
    """Correction of a batch normalisation's running statistics by the change of its input's."""

    earlier: tuple[TensorPlace, ...] = ()

    def __init__(self, case: Case, norm: Norm, place: TensorPlace) -> None:
        self.place, self.norm, self.done = place, norm, False
        self.dense: tuple[TensorPlace, ...] = (place,)
        own = named_tensors(case.pruned)
        self.mean, self.variance = own[norm.mean], own[norm.variance]
        self.stay = case.stays(norm.mean, 0)
        self.before, self.after = ChannelMoments(self.mean), ChannelMoments(self.mean)

    def see(self, pruned: Tensor, dense: Sequence[Tensor], earlier: Sequence[Tensor], share: float) -> None:
        """Add a batch of inputs of the normalisation, [N, channels, …]."""
        self.before.add(dense[0].movedim(1, -1).flatten(0, -2)[:, self.stay.to(pruned.device)])
        self.after.add(pruned.movedim(1, -1).flatten(0, -2))

    def act(self) -> Mapping[str, Tensor]:
        """Return μ + (μ̂ after − μ̂ before) and σ² · (σ̂² after / σ̂² before); empty for fewer than `FEWEST` rows."""
        if not (self.before.enough and self.after.enough):
            return {}
        tiny = torch.finfo(torch.float64).eps
        known = (self.before.variance > tiny) & (self.after.variance > CONSTANT * self.before.variance)
        ratio = torch.where(known, self.after.variance / self.before.variance.clamp(min=tiny), 1.0)
        self.done = True
        return {
            self.norm.mean: self.mean + (self.after.mean - self.before.mean),
            self.norm.variance: self.variance * ratio,
        }

    def again(self, pruned: Tensor) -> Tensor | None:
        """Return None: the input does not change."""
        return None


class Shift:
    """Correction of a bias by the change of its product's mean output."""

    earlier: tuple[TensorPlace, ...] = ()

    def __init__(self, case: Case, product: Product, bias: str) -> None:
        self.place, self.product, self.done = product.out, product, False
        self.dense: tuple[TensorPlace, ...] = (product.out,)
        self.name, self.bias = bias, named_tensors(case.pruned)[bias]
        self.stay = case.stays(bias, 0)
        self.before, self.after = ChannelMoments(self.bias.detach()), ChannelMoments(self.bias.detach())
        self.shift = torch.zeros_like(self.bias)

    def see(self, pruned: Tensor, dense: Sequence[Tensor], earlier: Sequence[Tensor], share: float) -> None:
        """Add a batch of outputs of the product."""
        before, after = (channels_last(self.product, value).flatten(0, -2) for value in (dense[0], pruned))
        self.before.add(before[:, self.stay.to(before.device)])
        self.after.add(after)

    def act(self) -> Mapping[str, Tensor]:
        """Return b + (mean before − mean after); empty for fewer than `FEWEST` rows."""
        if not (self.before.enough and self.after.enough):
            return {}
        self.shift = (self.before.mean - self.after.mean).to(self.bias.dtype)
        self.done = True
        return {self.name: self.bias.detach() + self.shift}

    def again(self, pruned: Tensor) -> Tensor | None:
        """Return the output with the new bias."""
        dim = 1 if self.product.convolution else pruned.ndim - 1
        return pruned + self.shift.view([-1 if at == dim else 1 for at in range(pruned.ndim)])
