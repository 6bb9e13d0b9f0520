"""The initial weights of the built-in architectures."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def kaiming(module: M) -> M:
    """Draw the convolutions of `module` from N(0, 2 / fan_out), zero their biases, and return it.

    This is the initialisation of He et al. 2015. Linear and BatchNorm layers keep PyTorch's own
    initialisation. Random numbers come from torch's global generator.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module
