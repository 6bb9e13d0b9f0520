"""Products with their batch normalisation under an encoder, which mixes the folded weights and shifts.

The result is split into a product and a normalisation again, so that the model keeps its layers and can be trained
further. See `secateur.importance.folding`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchNormed:
    """The tensors of a chain by units, float64: weight [n, k, …], all others [n, k]."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor
    epsilon: float

    def encoded(self, encoder: Tensor, kept: Tensor) -> BatchNormed:
        """Return the chain whose output is `encoder`, [m, n], times that of this one, in eval mode.

        The free parameters are set for training: v to the mean of the old ones, and γ², the output variance, to its
        value for uncorrelated inputs, which is proportional to the squared norm of the folded weights. γ has the sign
        of the unit in `kept`, int64 [m].
        """
        mean = encoder / encoder.sum(1, keepdim=True)
        s = self.scale / (self.variance + self.epsilon).sqrt()
        weight = self.weight * _beside(s, self.weight)
        new = torch.tensordot(encoder, weight, dims=1)

        variance = mean @ self.variance
        power = mean @ self.scale.square()
        energy, energies = new.flatten(2).square().sum(2), mean @ weight.flatten(2).square().sum(2)
        gain = power * (energy / energies.where(energies > 0, 1.0)).clamp(min=LEAST_VARIANCE)
        scale = torch.where(self.scale[kept.to(s.device)] < 0, -1.0, 1.0) * gain.sqrt()
        t = scale / (variance + self.epsilon).sqrt()

        silent = t == 0  # all the units are constant
        t = t.where(~silent, 1.0)

        def unfolded(folded: Tensor, plain: Tensor) -> Tensor:
            return torch.where(_beside(silent, folded), plain, folded / _beside(t, folded))

        return BatchNormed(
            unfolded(new, torch.tensordot(mean, self.weight, dims=1)),
            None if self.bias is None else unfolded(encoder @ (s * self.bias), mean @ self.bias),
            scale,
            encoder @ self.shift,
            unfolded(encoder @ (s * self.mean), mean @ self.mean),
            variance,
            self.epsilon,
        )


LEAST_VARIANCE = 1e-6
"""Least fraction of the variance left by weights that cancel: with γ = 0 no gradient would flow."""


def _beside(values: Tensor, tensor: Tensor) -> Tensor:
    """Return values, [n, k], as [n, k, 1, …] with the number of dimensions of a tensor."""
    return values.reshape(*values.shape, *(1 for _ in range(tensor.ndim - values.ndim)))
