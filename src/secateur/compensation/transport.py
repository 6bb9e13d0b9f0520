"""Optimal transport between the units of a group and fewer of them: features, cost, masses and plan."""

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
"""The least mass of a unit, as a part of the mean: without mass, no unit would read it or be read by it."""
FEATURE_CHUNK = 128
"""How many columns of features are compared at a time."""
SINKHORN_ITERATIONS = 10_000
"""Sinkhorn iterations at most."""


def features(tensors: Mapping[str, Tensor], group: Group) -> Tensor:
    """Return all that tensors hold of each unit, side by side and of ℓ2 norm 1, [units, numbers].

    `tensors` are the parameters that count, by name; a group's other tensors are left out.
    """
    together = _numbers(tensors, group, group.members)
    return F.normalize(together if together.dtype == torch.float64 else together.float(), dim=1)


def makers(tensors: Mapping[str, Tensor], group: Group) -> Tensor:
    """Return all that makes each unit, shifts or scales it, side by side, float64 on the CPU, [units, numbers]."""
    return _numbers(tensors, group, [member for member in group.members if not member.reads]).double().cpu()


def _numbers(tensors: Mapping[str, Tensor], group: Group, members: Iterable[Member]) -> Tensor:
    parts = [
        taken(tensors[member.name].detach(), member, group.units).flatten(1)
        for member in members
        if member.name in tensors
    ]
    return torch.cat(parts, dim=1) if parts else torch.zeros(group.units, 0)


def distances(sources: Tensor, targets: Tensor, p: float) -> Tensor:
    """Return ‖source − target‖_p of all pairs, float64 on the CPU, [sources, targets].

    A few columns are taken at a time: as many as a cache holds of all points.
    """
    parts = zip(torch.split(sources, FEATURE_CHUNK, 1), torch.split(targets, FEATURE_CHUNK, 1), strict=True)
    exact = "donot_use_mm_for_euclid_dist"  # equal features are to have the distance 0
    found = (torch.cdist(x.contiguous(), y.contiguous(), p, exact).double().cpu() for x, y in parts)
    if math.isinf(p):
        return functools.reduce(torch.maximum, found)
    return functools.reduce(torch.add, (part**p for part in found)) ** (1 / p)


def masses(scores: Tensor) -> Tensor:
    """Return masses in proportion to scores, float64, with the sum 1.

    Where a score is below 0, the lowest becomes 0; where all are 0 then, the masses are equal.
    """
    scores = scores.double().cpu()
    positive = scores - scores.min().clamp(max=0)
    if float(positive.sum()) == 0:
        positive = torch.ones_like(positive)
    positive = positive.clamp(min=LEAST_MASS * float(positive.mean()))
    return positive / positive.sum()


def uniform(scores: Tensor) -> Tensor:
    """Return equal masses, float64, with the sum 1."""
    return torch.full((len(scores),), 1 / len(scores), dtype=torch.float64)


MASSES = {"uniform": uniform, "importance": masses}


def most_important(points: Tensor, kept: Tensor) -> Tensor:
    """Return the features of the kept units."""
    return points[kept.to(points.device)]


def cluster(points: Tensor, kept: Tensor) -> Tensor:
    """Return the centroids of k-means that starts at the kept units: each has the place of the unit it started at."""
    need("sklearn", for_="Fusing by clusters")
    from sklearn.cluster import KMeans

    start = most_important(points, kept).cpu().double().numpy()
    found = KMeans(len(kept), init=start, n_init=1, random_state=0).fit(points.cpu().double().numpy())
    return torch.from_numpy(found.cluster_centers_).to(points)


FUSION_TARGETS = {"most_important": most_important, "cluster": cluster}


def exact(sources: Tensor, targets: Tensor, cost: Tensor, regularisation: float) -> Tensor:
    """Return the plan of the least total cost, by the network simplex."""
    plan = _ot().emd(sources.numpy(), targets.numpy(), cost.numpy(), numItermax=10**8)
    return torch.from_numpy(np.asarray(plan))


def sinkhorn(sources: Tensor, targets: Tensor, cost: Tensor, regularisation: float) -> Tensor:
    """Return the plan of the least total cost − regularisation · mean cost · entropy."""
    strength = regularisation * float(cost.mean()) or 1.0
    given = (sources.numpy(), targets.numpy(), cost.numpy(), strength)
    plan = _ot().sinkhorn(
        *given, method="sinkhorn_log", numItermax=SINKHORN_ITERATIONS, stopThr=1e-9, warn=False
    )
    return torch.from_numpy(np.asarray(plan))


PLANS = {"exact": exact, "sinkhorn": sinkhorn}


def function_preserving(plan: Tensor, made: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Make each new unit an average of old ones, and let each old one be read from an average of new ones."""
    return (plan / plan.sum(0)).T.contiguous(), plan / plan.sum(1, keepdim=True)


def energy_preserving(plan: Tensor, made: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Make each new unit of old ones as far as they point its way, and as long as these are; read as above.

    On inputs without correlation, a cosine is the correlation of two units. An old one in its own place counts whole,
    one that points away not at all. A place whose own unit goes elsewhere, as clusters may move, points where the
    average of those points that come to it.
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
    """Make each new unit a sum of n/m old ones' worth, and have it read by a sum as well: the paper's one map."""
    spread = plan / plan.sum(1, keepdim=True)
    return spread.T.contiguous(), spread


SCALINGS = {
    "function_preserving": function_preserving,
    "energy_preserving": energy_preserving,
    "reference": reference,
}
"""Each makes an encoder and a decoder of a plan, of what makes the units, and of the places of those that are kept."""


def _ot() -> Any:
    """Return the package POT, which takes a second to import."""
    return need("ot", extra="fuse", for_="Fusion")
