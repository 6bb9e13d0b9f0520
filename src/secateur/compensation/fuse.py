"""Fusion: removed units are merged into kept ones by optimal transport.

Each unit is a point, the concatenation of its slices of all tensors; n points are transported to m at the least cost.
The plan gives the units to merge: their average replaces the kept unit, and their readers read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from secateur.compensation import transport
from secateur.compensation.codable import Codable
from secateur.compensation.coder import Code, coded
from secateur.compensation.registry import Case, compensation
from secateur.core.errors import InputError
from secateur.core.modules import named_parameters
from secateur.graph.groups import Group
from secateur.importance.folding import Chain, chains, folded
from secateur.shrink.plan import named_tensors

OptionFunction = TypeVar("OptionFunction", bound=Callable[..., Any])


@compensation("fuse", {"units"})
def fuse(
    case: Case,
    *,
    p: float = 1.0,
    source: str = "uniform",
    target_mass: str = "uniform",
    target: str = "most_important",
    plan: str = "exact",
    regularisation: float = 0.01,
    scaling: str = "function_preserving",
) -> dict[str, Any]:
    """Merge removed units into kept ones by optimal transport (Theus et al. 2024, Intra-Fusion).

    T minimises Σ T_us ‖x_u − y_s‖_p over the plans with given sums of rows and columns, where x_u are the features of
    the n units and y_s those of the m `target` points: the kept units ("most_important") or centroids ("cluster").
    The sums are equal ("uniform") or proportional to scores ("importance"), of the units by `source`, of the targets
    by `target_mass`. `plan` is "exact" or "sinkhorn", the latter with `regularisation` (default 0.01) in units of the
    mean cost. With the `scaling` "function_preserving", encoder and decoder are T with columns and with rows divided
    by their sums. "energy_preserving" weights T by the cosines between the units' producing weights, and scales each
    average to their mean length. With "reference" both are T with rows divided by their sums, as in the paper, and
    outputs grow with n/m.

    Each batch normalisation that alone reads a product is encoded together with it. Groups that can't be encoded are
    dropped without fusion, and the reason is recorded.

    Raises `InputError` for an unknown choice or a number out of range, `MissingExtraError` if the package POT is
    missing.
    """
    way = Way(
        _order(p),
        _chosen("source", source, transport.MASSES),
        _chosen("target_mass", target_mass, transport.MASSES),
        _chosen("target", target, transport.FUSION_TARGETS),
        _chosen("plan", plan, transport.PLANS),
        _strength(regularisation),
        _chosen("scaling", scaling, transport.SCALINGS),
    )
    assert case.cut is not None
    found = chains(case.cut.coupling)
    codes, record = way.codes(case, found)
    new = coded(named_tensors(case.model), codes, found)
    case.write({name: case.plan.slice(name, tensor) for name, tensor in new.items()})
    return record


@dataclass(frozen=True)
class Way:
    """The options of fusion, resolved to numbers and functions."""

    p: float
    source: Callable[[Tensor], Tensor]
    target_mass: Callable[[Tensor], Tensor]
    target: Callable[[Tensor, Tensor], Tensor]
    plan: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    regularisation: float
    scaling: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

    @torch.no_grad()
    def codes(self, case: Case, chains: Mapping[str, Chain]) -> tuple[list[Code], dict[str, Any]]:
        """Return the codes of all groups that the cut makes smaller, and their record as JSON."""
        assert case.cut is not None
        codable = Codable(case.cut.coupling)
        tensors = folded(dict(named_parameters(case.model)), named_tensors(case.model), chains)
        codes, groups, left = [], {}, {}
        for group in case.groups:
            kept = case.kept(group).nonzero().flatten()
            if len(kept) == group.units:
                continue
            if (reason := codable.refused(group)) is not None:
                left[group.name] = reason
                continue
            code, cost = self.code(group, tensors, kept, case.scores[group.name])
            codes.append(code)
            groups[group.name] = {"kept": len(kept), "of": group.units, "cost": cost}
        return codes, {"groups": groups, "left": left}

    def code(
        self, group: Group, tensors: Mapping[str, Tensor], kept: Tensor, scores: Tensor
    ) -> tuple[Code, float]:
        """Return encoder and decoder of one group, and the transport cost."""
        points = transport.features(tensors, group)
        cost = transport.distances(points, self.target(points, kept), self.p)
        plan = self.plan(self.source(scores), self.target_mass(scores[kept]), cost, self.regularisation)
        encoder, decoder = self.scaling(plan, transport.makers(tensors, group), kept)
        return Code(group, kept, encoder, decoder), float((plan * cost).sum())


def _order(p: float) -> float:
    if not p > 0:
        raise InputError(f"The option p of fuse is {p}: give the order of a norm, such as 1 or 2.")
    return float(p)


def _strength(regularisation: float) -> float:
    if not 0 < regularisation < math.inf:
        raise InputError(f"The option regularisation of fuse is {regularisation}: give a number above 0.")
    return float(regularisation)


def _chosen(option: str, name: str, known: Mapping[str, OptionFunction]) -> OptionFunction:
    if name not in known:
        raise InputError(f"The option {option} of fuse is {name!r}: choose {' or '.join(known)}.")
    return known[name]
