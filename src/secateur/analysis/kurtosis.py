"""Pearson kurtosis of tensors of any size, in float64, chunk by chunk.

Kurtosis is the fourth central moment over the squared second one, both with divisor n (the biased estimator):
3 for a normal distribution, 1.8 for a uniform one, 6 for a Laplace one, never less than 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

KURTOSIS_CHUNK = 1 << 20
"""Entries converted to float64 at a time: 8 MB."""


def kurtosis(tensor: Tensor) -> float:
    """Return the biased Pearson kurtosis of all entries of `tensor`, of any shape and float dtype.

    The sums are computed on the tensor's own device. The result is NaN if the kurtosis is undefined: for fewer than
    two entries, a constant tensor, or NaN or infinite entries.
    """
    values = tensor.detach().reshape(-1)
    if values.device.type == "mps":  # has no float64
        values = values.cpu()
    if values.numel() < 2:
        return math.nan
    lowest, highest = (bound.item() for bound in values.aminmax())
    spread = highest - lowest
    if not 0 < spread < math.inf:
        return math.nan
    chunks = [values[start : start + KURTOSIS_CHUNK] for start in range(0, values.numel(), KURTOSIS_CHUNK)]
    mean = sum((chunk.double() - lowest).sum() for chunk in chunks) / values.numel() + lowest
    second = fourth = torch.zeros((), dtype=torch.float64, device=values.device)
    for chunk in chunks:
        square = ((chunk.double() - mean) / spread).square_()
        second = second + square.sum()
        fourth = fourth + square.square_().sum()
    return (values.numel() * fourth / second**2).item()
