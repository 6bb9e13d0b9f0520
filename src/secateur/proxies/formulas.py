"""The proxies. Those that sum a criterion call the criterion's formula."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria import initialisation
from secateur.proxies import quantities  # noqa: F401  (registers)
from secateur.proxies.pairs import preferred
from secateur.proxies.registry import proxy

ABDELFATTAH = "Abdelfattah et al. 2021, Zero-Cost Proxies for Lightweight NAS"


@proxy("synflow", paper=f"{ABDELFATTAH}; Tanaka et al. 2020", batch_norm="removed")
def synflow(weight: Tensor, flow_gradient: Tensor) -> Tensor:
    """Flow through the weights, Σ |θ| ∘ ∂R/∂|θ|, R the sum of the outputs for inputs of ones; without data."""
    scores: Tensor = initialisation.synflow(weight, flow_gradient)
    return scores.sum()


@proxy("jacob_cov", paper=f"{ABDELFATTAH}; Mellor et al. 2020, version 1", batch_norm="train")
def jacob_cov(input_gradient: Tensor) -> Tensor:
    """Dissimilarity of samples' gradients, −Σ log(v + k) + 1/(v + k), v their correlations' eigenvalues, k = 1e-5."""
    if len(input_gradient) < 2:
        raise InputError("The proxy jacob_cov compares samples: give a batch of two or more.")
    v: Tensor = torch.linalg.eigvalsh(torch.corrcoef(input_gradient.double())) + 1e-5
    return -(v.log() + 1 / v).sum()


@proxy("snip", paper=f"{ABDELFATTAH}; Lee et al. 2019", batch_norm="train")
def snip(weight: Tensor, gradient: Tensor) -> Tensor:
    """Sensitivity of the loss to the connections, Σ |θ · ∂L/∂θ|."""
    scores: Tensor = initialisation.snip(weight, gradient)
    return scores.sum()


@proxy("grad_norm", paper=ABDELFATTAH, batch_norm="train")
def grad_norm(gradient: Tensor) -> Tensor:
    """Size of the loss's gradient, Σ over layers of ‖∂L/∂θ‖₂."""
    norm: Tensor = gradient.norm()
    return norm


@proxy("grasp", paper=f"{ABDELFATTAH}; Wang et al. 2020", batch_norm="train", temperature=1.0, parts=1)
def grasp(scored_weight: Tensor, hessian_gradient: Tensor) -> Tensor:
    """First-order change of half the gradient's squared norm without the weights, Σ −θ ∘ H g."""
    scores: Tensor = initialisation.grasp(scored_weight, hessian_gradient)
    return -scores.sum()


@proxy("fisher", paper=f"{ABDELFATTAH}; Turner et al. 2020, BlockSwap; Theis et al. 2018", batch_norm="train")
def fisher(unit_effect: Tensor) -> Tensor:
    """Change of the loss without single channels, Σ over channels of ½ mean over samples (Σ a · ∂L/∂a)²."""
    return unit_effect.square().mean(0).sum() / 2


@proxy("plain", paper=f"{ABDELFATTAH}, the authors' code", batch_norm="train")
def plain(weight: Tensor, gradient: Tensor) -> Tensor:
    """First-order change of the loss without the weights, with its sign, Σ θ · ∂L/∂θ."""
    return (weight * gradient).sum()


@proxy("vote", paper=ABDELFATTAH)
def vote(synflow: Tensor, jacob_cov: Tensor, snip: Tensor) -> Tensor:
    """Majority vote of synflow, jacob_cov and snip: share of other networks beaten less share lost to."""
    return preferred(torch.stack([synflow, jacob_cov, snip]))
