"""Criteria of channels as published with Intra-Fusion (Theus et al. 2024): scores of the model with its batch
normalisations folded into the products before them, averaged over the layers of a group.

A layer counts if it has one index for each channel: the products that make the channels and those that read them, by
their weights alone, without biases.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria.lamp import lamp_scores
from secateur.criteria.registry import OBSERVED, criterion
from secateur.linalg.spectra import nuclear_losses

PAPER = "Theus et al. 2024, Intra-Fusion"
FOLDED_POWERS = {"l1": 1, "l2": 2}
"""Norm → power of the absolute weights; the published l2 is the squared norm."""

OBSERVED.add("changes", "the gradient")


@criterion("folded_norm", elements={"channels"}, per="folded", paper=f"{PAPER}, l1 and l2")
def folded_norm(slices: Sequence[Tensor], *, norm: str = "l1") -> Tensor:
    """Mean over the group's layers of Σ |w| of a channel's folded weights, or of Σ w² with `norm` "l2".

    Raises `InputError` for any other `norm`.
    """
    if norm not in FOLDED_POWERS:
        raise InputError(f"There is no norm '{norm}' for folded_norm: choose {' or '.join(FOLDED_POWERS)}.")
    return torch.stack([rows.abs().pow(FOLDED_POWERS[norm]).sum(1) for rows in slices]).mean(0)


@criterion("folded_lamp", elements={"channels"}, per="folded", paper=f"{PAPER}, lamp")
def folded_lamp(slices: Sequence[Tensor]) -> Tensor:
    """Share of a channel's mean ‖w‖₂ over the group's folded layers, s / Σ s' over s' ≥ s."""
    sizes = torch.stack([torch.linalg.vector_norm(rows, dim=1) for rows in slices]).mean(0)
    return lamp_scores(sizes.sqrt())


@criterion("folded_taylor", elements={"channels"}, per="folded", moment="after", paper=f"{PAPER}, taylor")
def folded_taylor(changes: Sequence[Tensor]) -> Tensor:
    """Mean over the group's folded layers of Σ |w · ∂L/∂w| of a channel's weights.

    `changes` are the products w · ∂L/∂w.

    Cost: a forward and a backward pass for each batch.
    """
    return torch.stack([rows.abs().sum(1) for rows in changes]).mean(0)


@criterion("folded_chip", elements={"channels"}, per="folded_map", moment="after", paper=f"{PAPER}, chip")
def folded_chip(maps: Tensor) -> Tensor:
    """Channel independence ‖A‖_* − ‖A with its row zero‖_* of the folded layers' outputs, before the activation.

    A = [channels, places] of a sample; mean over samples and over the layers that make the group. For the computation
    see `chip`.

    Cost: a forward pass for each batch, and one decomposition for each sample and layer.
    """
    return nuclear_losses(maps.unsqueeze(-1).flatten(2))
