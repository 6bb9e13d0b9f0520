"""Optimisers by name: functions whose keyword-only parameters are fields of a `TrainConfig`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from secateur.core.registry import Registry

Parameters = Iterable[nn.Parameter]
OPTIMIZERS: Registry[Callable[..., torch.optim.Optimizer]] = Registry("optimizer")


@OPTIMIZERS.register("sgd")
def sgd(
    parameters: Parameters, *, lr: float, momentum: float, nesterov: bool, weight_decay: float
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum, classical or Nesterov's."""
    return torch.optim.SGD(
        parameters, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay
    )


@OPTIMIZERS.register("adam")
def adam(parameters: Parameters, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015); the L2 penalty is part of the gradient."""
    return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)


@OPTIMIZERS.register("adamw")
def adamw(parameters: Parameters, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); decoupled weight decay."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
