"""Optimal transport from the units of a group to a smaller set: features, cost, masses and plan."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.compensation.coder import taken
from secateur.core.extras import need
from secateur.graph.groups import Group, Member

LEAST_MASS = 1e-6
"""Least mass of a unit, as a fraction of the mean: the plan's sums must not be 0."""
FEATURE_CHUNK = 128
"""Columns of features per chunk."""
SINKHORN_ITERATIONS = 10_000
"""Largest number of Sinkhorn iterations."""


def features(tensors: Mapping[str, Tensor], group: Group) -> Tensor:
    """Return the slices of each unit in all tensors, concatenated and of ℓ2 norm 1, float32 at least [units, numbers].

    Tensors of the group that are not in `tensors` are left out.
    """
    together = _numbers(tensors, group, group.members)
    return F.normalize(together if together.dtype == torch.float64 else together.float(), dim=1)


def makers(tensors: Mapping[str, Tensor], group: Group) -> Tensor:
    """Return the producing weights, shifts and scales of each unit, concatenated; float64 [units, numbers], CPU."""
    return _numbers(tensors, group, [member for member in group.members if not member.reads]).double().cpu()


def _numbers(tensors: Mapping[str, Tensor], group: Group, members: Iterable[Member]) -> Tensor:
    parts = [
        taken(tensors[member.name].detach(), member, group.units).flatten(1)
        for member in members
        if member.name in tensors
    ]
    return torch.cat(parts, dim=1) if parts else torch.zeros(group.units, 0)


def distances(sources: Tensor, targets: Tensor, p: float) -> Tensor:
    """Return ‖source − target‖_p of all pairs, float64 [sources, targets], on the CPU.

    Columns are compared in chunks that fit a cache.
    """
    parts = zip(torch.split(sources, FEATURE_CHUNK, 1), torch.split(targets, FEATURE_CHUNK, 1), strict=True)
    exact = "donot_use_mm_for_euclid_dist"  # equal features must have the distance 0
    found = (torch.cdist(x.contiguous(), y.contiguous(), p, exact).double().cpu() for x, y in parts)
    if math.isinf(p):
        return functools.reduce(torch.maximum, found)
    return functools.reduce(torch.add, (part**p for part in found)) ** (1 / p)


def masses(scores: Tensor) -> Tensor:
    """Return masses proportional to scores, float64 [units], with the sum 1.

    Negative scores are shifted so that the lowest is 0; masses are equal if all scores are then 0.
    """
    scores = scores.double().cpu()
    positive = scores - scores.min().clamp(max=0)
    if float(positive.sum()) == 0:
        positive = torch.ones_like(positive)
    positive = positive.clamp(min=LEAST_MASS * float(positive.mean()))
    return positive / positive.sum()


def uniform(scores: Tensor) -> Tensor:
    """Return equal masses, float64 [units], with the sum 1."""
    return torch.full((len(scores),), 1 / len(scores), dtype=torch.float64)


MASSES = {"uniform": uniform, "importance": masses}


def most_important(points: Tensor, kept: Tensor) -> Tensor:
    """Return the features of the kept units, [kept, numbers]."""
    return points[kept.to(points.device)]


def cluster(points: Tensor, kept: Tensor) -> Tensor:
    """Return the centroids of k-means from the kept units, [kept, numbers], in their order."""
    need("sklearn", for_="Fusing by clusters")
    from sklearn.cluster import KMeans

    start = most_important(points, kept).cpu().double().numpy()
    found = KMeans(len(kept), init=start, n_init=1, random_state=0).fit(points.cpu().double().numpy())
    return torch.from_numpy(found.cluster_centers_).to(points)


FUSION_TARGETS = {"most_important": most_important, "cluster": cluster}


def exact(sources: Tensor, targets: Tensor, cost: Tensor, regularisation: float) -> Tensor:
    """Return the plan of least total cost, by the network simplex, float64 [sources, targets]."""
    plan = _ot().emd(sources.numpy(), targets.numpy(), cost.numpy(), numItermax=10**8)
    return torch.from_numpy(np.asarray(plan))


def sinkhorn(sources: Tensor, targets: Tensor, cost: Tensor, regularisation: float) -> Tensor:
    """Return the plan of least total cost − regularisation · mean cost · entropy, float64 [sources, targets]."""
    strength = regularisation * float(cost.mean()) or 1.0
    given = (sources.numpy(), targets.numpy(), cost.numpy(), strength)
    plan = _ot().sinkhorn(
        *given, method="sinkhorn_log", numItermax=SINKHORN_ITERATIONS, stopThr=1e-9, warn=False
    )
    return torch.from_numpy(np.asarray(plan))


PLANS = {"exact": exact, "sinkhorn": sinkhorn}


def function_preserving(plan: Tensor, made: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return an encoder and a decoder of averages: T with columns, and with rows, divided by their sums."""
    return (plan / plan.sum(0)).T.contiguous(), plan / plan.sum(1, keepdim=True)


def energy_preserving(plan: Tensor, made: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return an encoder weighted by cosines and scaled to the units' length, and the decoder of `function_preserving`.

    For uncorrelated inputs, the cosine of two units' weights `made` is their correlation; negative ones count as 0.
    Cosines are to the kept unit of a target, or to the average of the units transported to it if the kept unit is not
    among them, as clusters can move. Each new unit is scaled to the weighted mean of the old ones' lengths.
    """
    average, comes = (plan / plan.sum(0)).T @ made, plan[kept, torch.arange(len(kept))] > 0
    ways = torch.where(comes[:, None], made[kept], average)
    cosines = F.normalize(ways, dim=1) @ F.normalize(made, dim=1).T
    weights = plan.T * cosines.clamp(min=0)
    own = F.one_hot(kept, len(made)).to(weights)
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, own)
    encoder = weights / weights.sum(1, keepdim=True)
    lengths, wanted = (encoder @ made).norm(dim=1), encoder @ made.norm(dim=1)
    gain = torch.where(lengths > 0, wanted / lengths, 1.0)
    return encoder * gain[:, None], plan / plan.sum(1, keepdim=True)


def reference(plan: Tensor, made: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return T with rows divided by their sums, transposed as encoder: the single map of the paper."""
    spread = plan / plan.sum(1, keepdim=True)
    return spread.T.contiguous(), spread


SCALINGS = {
    "function_preserving": function_preserving,
    "energy_preserving": energy_preserving,
    "reference": reference,
}
"""Name → function of a plan, [n, m], the units' `makers`, [n, numbers], and the kept units, [m] → encoder, decoder."""


def _ot() -> Any:
    """Return the package POT, which takes a second to import."""
    return need("ot", extra="fuse", for_="Fusion")
