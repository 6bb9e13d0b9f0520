"""How an amount is spread over tensors: from scores to masks with exactly k entries cut.

A scope answers two questions: what makes scores of different tensors comparable, and how many entries each tensor
loses (or that all tensors are ranked together). Cutting is then the same for all: the k lowest scores go, ties
broken by position, lowest flat index first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.masks import Masks
from secateur.registry import Registry

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Scope:
    """A way to spread an amount.

    `counts(shapes, amount)` gives each tensor's number of cut entries; None ranks all tensors together, after
    `normalise` has made one tensor's scores comparable to another's.
    """

    name: str
    summary: str
    paper: str
    counts: Callable[[Shapes, float], dict[str, int]] | None = None
    normalise: Callable[[Tensor], Tensor] = lambda scores: scores


SCOPES: Registry[Scope] = Registry("scope")


def allocate(
    scores: Mapping[str, Tensor], amount: float, scope: str, already: Mapping[str, Tensor] | None = None
) -> Masks:
    """Cut the fraction `amount` of all entries: exactly round(amount · n), the lowest-scored first.

    `scores` maps names to tensors of any shape; `already` holds masks whose cuts stay cut and count towards the
    amount. With scope `local` every tensor loses exactly round(amount · its own n). Raises `InputError` for an
    amount outside [0, 1], an unknown scope, NaN scores, or less than is cut already.

    >>> allocate({"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([2.0, 3.0])}, 0.5, "global")["b"]
    tensor([False,  True])
    """
    check_amount(amount)
    rule = SCOPES[scope]
    flat = {}
    for name, tensor in scores.items():
        if bool(tensor.isnan().any()):
            raise InputError(f"The scores of {name} hold NaN: they cannot be ranked.")
        ranked = rule.normalise(tensor.flatten())
        if already is not None and name in already:
            ranked = ranked.masked_fill(~already[name].flatten().to(ranked.device), -math.inf)
        flat[name] = ranked
    shapes = {name: tuple(tensor.shape) for name, tensor in scores.items()}
    if rule.counts is None:
        joined = torch.cat([ranked.to(next(iter(flat.values())).device) for ranked in flat.values()])
        kept = keep_highest(joined, _at_least_cut(joined, round(amount * joined.numel())))
        pieces = dict(zip(flat, kept.split([ranked.numel() for ranked in flat.values()]), strict=True))
    else:
        counts = rule.counts(shapes, amount)
        pieces = {
            name: keep_highest(ranked, _at_least_cut(ranked, counts[name])) for name, ranked in flat.items()
        }
    return Masks(
        {name: piece.reshape(shapes[name]).to(scores[name].device) for name, piece in pieces.items()}
    )


def keep_highest(scores: Tensor, cut: int) -> Tensor:
    """Return the boolean mask that cuts exactly the `cut` lowest of a 1-D tensor of scores.

    Among equal scores the lowest index is cut first. One selection, no sort: linear in the number of scores.

    >>> keep_highest(torch.tensor([2.0, 1.0, 1.0, 3.0]), 1)
    tensor([ True, False,  True,  True])
    """
    if cut == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    ordered = scores if scores.dtype == torch.float64 else scores.float()
    threshold = ordered.kthvalue(cut).values
    kept = ordered > threshold
    ties = (ordered == threshold).nonzero().flatten()
    spared = ordered.numel() - int(kept.count_nonzero()) - cut
    if spared:
        kept[ties[-spared:]] = True
    return kept


def check_amount(amount: float) -> None:
    """Raise `InputError` unless `amount` is a number in [0, 1]."""
    if not isinstance(amount, int | float) or not 0 <= amount <= 1:
        raise InputError(
            f"The amount {amount} is not between 0 and 1: it is the fraction to remove, such as 0.8."
        )


def local_counts(shapes: Shapes, amount: float) -> dict[str, int]:
    """The same fraction of every tensor: round(amount · n) each."""
    return {name: round(amount * math.prod(shape)) for name, shape in shapes.items()}


def erk_counts(shapes: Shapes, amount: float) -> dict[str, int]:
    """Erdős–Rényi-Kernel densities: d_l = min(1, ε · Σ dims / Π dims), ε chosen so that the total is exact."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / max(1, sizes[name]) for name, shape in shapes.items()}
    total = sum(sizes.values())
    cut = round(amount * total)
    dense: set[str] = set()
    while True:
        budget = total - cut - sum(sizes[name] for name in dense)
        weight = sum(raw[name] * sizes[name] for name in sizes if name not in dense)
        epsilon = budget / weight if weight else 0.0
        overfull = {name for name in sizes if name not in dense and epsilon * raw[name] > 1}
        if not overfull:
            break
        dense |= overfull
    wanted = {name: 0.0 if name in dense else sizes[name] * (1 - epsilon * raw[name]) for name in sizes}
    return _whole_numbers(wanted, cut)


def lamp_scores(scores: Tensor) -> Tensor:
    """LAMP: s_u² / Σ s_v² over all v that rank at or above u in the tensor (1-D, float64); the largest is 1."""
    squares = scores.double().square()
    order = squares.argsort(stable=True)
    ascending = squares[order]
    survivors = ascending.flip(0).cumsum(0).flip(0)
    lamp = torch.where(survivors > 0, ascending / survivors, torch.zeros_like(ascending))
    return torch.empty_like(lamp).scatter_(0, order, lamp)


SCOPES.add("global", Scope("global", "all tensors ranked together", "Han et al. 2015"))
SCOPES.add(
    "local", Scope("local", "the same fraction of every tensor", "Han et al. 2015", counts=local_counts)
)
SCOPES.add(
    "erk",
    Scope(
        "erk", "Erdős–Rényi-Kernel densities, thin layers kept denser", "Evci et al. 2020", counts=erk_counts
    ),
)
SCOPES.add(
    "lamp",
    Scope("lamp", "layer-adaptive scores ranked together", "Lee et al. 2021, eq. 4", normalise=lamp_scores),
)


def _at_least_cut(ranked: Tensor, cut: int) -> int:
    """Never bring back what is cut already (−∞)."""
    return max(cut, int(ranked.isneginf().count_nonzero()))


def _whole_numbers(wanted: Mapping[str, float], total: int) -> dict[str, int]:
    """Round to whole numbers that add up to `total`: the largest remainders are rounded up."""
    floors = {name: math.floor(value) for name, value in wanted.items()}
    by_remainder = sorted(wanted, key=lambda name: (floors[name] - wanted[name], name))
    for name in by_remainder[: total - sum(floors.values())]:
        floors[name] += 1
    return floors
