"""Distribution of an amount over tensors: from scores to masks with exactly k entries cut.

A scope defines the normalisation of scores of different tensors, and either the number of entries cut in each tensor
or one ranking of all tensors. The k lowest scores are cut in every scope, ties broken by position, lowest flat index
first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.registry import Registry
from secateur.criteria.lamp import lamp_scores
from secateur.sparsity.masks import Masks

Shapes = Mapping[str, tuple[int, ...]]
Counts = Mapping[str, int]


@dataclass(frozen=True)
class Scope:
    """A distribution of an amount over tensors.

    `counts(shapes, amount, spent)` gives each tensor's number of cut entries, `spent` of which are cut already;
    None ranks all tensors together, after `normalise` has made one tensor's scores (1-D, those not cut already)
    comparable to another's. With `each`, every tensor loses its share independently of the others.
    """

    name: str
    summary: str
    paper: str
    counts: Callable[[Shapes, float, Counts], dict[str, int]] | None = None
    normalise: Callable[[Tensor], Tensor] = lambda scores: scores
    each: bool = False


SCOPES: Registry[Scope] = Registry(
    "scope",
    {
        **dict.fromkeys(("layer", "layerwise", "uniform", "perlayer", "l1unstructured"), "local"),
        **dict.fromkeys(("globalunstructured", "all", "networkwise"), "global"),
        **dict.fromkeys(("er", "erdosrenyi", "erdosrenyikernel"), "erk"),
    },
)


def allocate(
    scores: Mapping[str, Tensor],
    amount: float | Mapping[str, float],
    scope: str,
    already: Mapping[str, Tensor] | None = None,
    allow_empty: bool = False,
) -> Masks:
    """Cut the fraction `amount` of all entries: exactly round(amount · n), the lowest-scored first.

    `scores` maps names to tensors of any shape; `already` holds masks whose cuts stay cut and count towards the
    amount. With scope `local` every tensor loses exactly round(amount · its own n). With the others, every tensor
    that has an entry left keeps its highest, and the next lowest elsewhere is cut instead, unless `allow_empty`. A
    mapping, in any scope, gives each tensor an amount of its own.
    Raises `InputError` for an amount outside [0, 1] or too large to leave an entry everywhere, an unknown scope,
    scores that are NaN or infinite (or, with `lamp`, negative), masks of other shapes, or less than is cut
    already.

    >>> allocate({"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([2.0, 3.0])}, 0.5, "global")["b"]
    tensor([False,  True])
    """
    own = isinstance(amount, Mapping)
    rule = SCOPES["local" if own else scope]
    whole = 0.0 if isinstance(amount, Mapping) else check_amount(amount)
    earlier = Masks({name: mask for name, mask in (already or {}).items() if name in scores})
    shapes = {name: tuple(tensor.shape) for name, tensor in scores.items()}
    devices = {name: tensor.device for name, tensor in scores.items()}
    spent = {name: mask.numel() - int(mask.count_nonzero()) for name, mask in earlier.items()}
    left = {name: _left(name, tensor, rule, earlier.get(name)) for name, tensor in scores.items()}
    alive = [name for name, tensor in left.items() if len(tensor)]
    guarded = () if allow_empty or rule.each else alive
    if rule.counts is None:
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        cut = _total_cut(sum(sizes.values()), whole, spent)
        _require_one_each(whole, sum(sizes.values()) - cut, guarded)
        kept = _keep_highest_of_all(left, cut - sum(spent.values()), guarded)
    else:
        counts = local_counts(shapes, amount, spent) if own else rule.counts(shapes, whole, spent)
        stays = {name: math.prod(shape) - counts[name] for name, shape in shapes.items()}
        _require_one_each(whole, sum(stays.values()), guarded)
        stays = _none_empty(stays, guarded)
        kept = {name: keep_highest(tensor, len(tensor) - stays[name]) for name, tensor in left.items()}
    masks = {}
    for name, mask in kept.items():
        if name in earlier:
            before = earlier[name].to(mask.device)
            mask = torch.zeros_like(before).masked_scatter_(before, mask)
        masks[name] = mask.reshape(shapes[name]).to(devices[name])
    return Masks(masks)


def redistributed(
    masks: Masks, scores: Mapping[str, Tensor], amount: float, scope: str, already: Mapping[str, Tensor]
) -> dict[str, int]:
    """Count the entries that `allocate` moved between tensors so that no tensor is empty.

    `masks` is its result, the others are its arguments. Returns tensor name → entries kept minus entries kept by the
    plain order of scores, for tensors where the two differ.
    """
    kept = {name: int(mask.count_nonzero()) for name, mask in masks.items()}
    if SCOPES[scope].each or 1 not in kept.values():
        return {}  # a tensor that would be empty keeps exactly one entry
    plain = allocate(scores, amount, scope, already, allow_empty=True)
    moved = {name: count - int(plain[name].count_nonzero()) for name, count in kept.items()}
    return {name: count for name, count in moved.items() if count}


def keep_highest(scores: Tensor, cut: int) -> Tensor:
    """Return the boolean mask that cuts exactly the `cut` lowest of a 1-D tensor of scores.

    Among equal scores the lowest index is cut first. One selection, no sort: linear in the number of scores.

    >>> keep_highest(torch.tensor([2.0, 1.0, 1.0, 3.0]), 1)
    tensor([ True, False,  True,  True])
    """
    if cut == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    ordered = scores.float() if scores.is_floating_point() and scores.itemsize < 4 else scores
    threshold = _kth_lowest(ordered, cut)
    kept = ordered > threshold
    spared = ordered.numel() - int(kept.count_nonzero()) - cut
    if spared:
        ties = (ordered == threshold).nonzero().flatten()
        kept[ties[-spared:]] = True
    return kept


def check_amount(amount: Any) -> float:
    """Return `amount` as a float. Raises `InputError` unless it is a number in [0, 1]."""
    number = isinstance(amount, Real) and not isinstance(amount, bool)
    if not number or not 0 <= amount <= 1:
        raise InputError(
            f"The amount {amount!r} is not a number between 0 and 1: it is the fraction to remove, such as 0.8."
        )
    return float(amount)


def local_counts(shapes: Shapes, amount: float | Mapping[str, float], spent: Counts) -> dict[str, int]:
    """The same fraction of every tensor, or each one's own: round(amount · n) each.

    Raises `InputError` for a tensor that has lost more than that already.
    """
    own = {name: check_amount(amount[name] if isinstance(amount, Mapping) else amount) for name in shapes}
    counts = {name: round(own[name] * math.prod(shape)) for name, shape in shapes.items()}
    for name, cut in spent.items():
        if cut > counts[name]:
            raise InputError(
                f"{name} has lost {cut / math.prod(shapes[name]):.4f} already, more than the scope local takes "
                f"of every tensor at amount {amount}: choose a larger amount or another scope."
                if isinstance(amount, float)
                else f"{name} has lost {cut / math.prod(shapes[name]):.4f} already, more than its amount "
                f"{own[name]}: choose a larger one."
            )
    return counts


def erk_counts(shapes: Shapes, amount: float, spent: Counts) -> dict[str, int]:
    """Erdős–Rényi-Kernel densities: d_l = min(1, ε · Σ dims / Π dims), ε chosen so that the total is exact.

    A tensor keeps no more entries than it has left. Evci et al. 2020.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    dims = {name: sum(shape or (1,)) for name, shape in shapes.items()}
    room = {name: size - spent.get(name, 0) for name, size in sizes.items()}
    budget = sum(sizes.values()) - _total_cut(sum(sizes.values()), amount, spent)
    full: set[str] = set()
    while True:
        rest = [name for name in shapes if name not in full]
        epsilon = (budget - sum(room[name] for name in full)) / max(1, sum(dims[name] for name in rest))
        overfull = {name for name in rest if epsilon * dims[name] > room[name]}
        if not overfull:
            break
        full |= overfull
    kept = _whole_numbers({n: room[n] if n in full else epsilon * dims[n] for n in shapes}, budget)
    return {name: sizes[name] - kept[name] for name in shapes}


SCOPES.add("global", Scope("global", "all tensors ranked together", "Han et al. 2015"))
SCOPES.add(
    "local",
    Scope("local", "the same fraction of every tensor", "Han et al. 2015", counts=local_counts, each=True),
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


def _total_cut(size: int, amount: float, spent: Counts) -> int:
    """Return round(amount · size). Raises `InputError` if more has been cut already."""
    cut, already = round(amount * size), sum(spent.values())
    if cut < already:
        raise InputError(
            f"The amount {amount} is less than the {already / size:.4f} that is cut already: "
            "amounts count from the whole."
        )
    return cut


def least_amount(scope: str, sizes: Counts, spent: Counts) -> float:
    """Return the smallest amount of a scope for tensors of these sizes with `spent` entries cut already."""
    if SCOPES[scope].each:
        return max((spent.get(name, 0) / size for name, size in sizes.items() if size), default=0.0)
    return sum(spent.values()) / max(1, sum(sizes.values()))


def _require_one_each(amount: float, stays: int, guarded: Collection[str]) -> None:
    """Raise `InputError` unless every guarded tensor can keep an entry."""
    if stays < len(guarded):
        raise InputError(
            f"The amount {amount} leaves fewer weights ({stays}) than tensors ({len(guarded)}): "
            "choose a smaller one, or let tensors lose all of theirs with allow_empty."
        )


def _none_empty(stays: Counts, guarded: Collection[str]) -> dict[str, int]:
    """Return the numbers of kept entries with at least one in each guarded tensor, taken from the largest."""
    stays = dict(stays)
    for name in guarded:
        if not stays[name]:
            stays[max(stays, key=lambda each: stays[each])] -= 1
            stays[name] = 1
    return stays


def _left(name: str, scores: Tensor, rule: Scope, earlier: Tensor | None) -> Tensor:
    """Return the normalised scores of a tensor's entries that are not cut already, 1-D."""
    flat = scores.detach().flatten()
    flat = flat if flat.is_floating_point() else flat.double()
    if not bool(flat.isfinite().all()):
        raise InputError(f"The scores of {name} hold NaN or infinity: they cannot be ranked.")
    if earlier is None:
        return rule.normalise(flat)
    if earlier.shape != scores.shape:
        raise InputError(
            f"The mask of {name} has another shape than its scores: it belongs to another model."
        )
    return rule.normalise(flat.masked_select(earlier.flatten().to(flat.device)))


def _keep_highest_of_all(left: dict[str, Tensor], cut: int, guarded: Collection[str]) -> dict[str, Tensor]:
    """Rank all tensors together, on the device of the first.

    The highest entry of each guarded tensor, the last of equal ones, is kept.
    """
    sizes = {name: tensor.numel() for name, tensor in left.items()}
    device = next((tensor.device for tensor in left.values()), None)
    highest = {name: (left[name] == left[name].amax()).nonzero()[-1] for name in guarded}
    joined = torch.cat([torch.empty(0, device=device), *(tensor.to(device) for tensor in left.values())])
    left.clear()  # `joined` holds it all: halves the memory
    for name, part in zip(sizes, torch.split(joined, list(sizes.values())), strict=True):
        if name in highest:
            part[highest[name]] = math.inf
    kept = keep_highest(joined, cut)
    return dict(zip(sizes, torch.split(kept, list(sizes.values())), strict=True))


def _kth_lowest(values: Tensor, k: int) -> Tensor:
    """The `k`-th lowest value, k from 1, in linear time: `kthvalue` is quadratic on the CPU for descending values."""
    if values.device.type != "cpu":
        return values.kthvalue(k).values
    return torch.from_numpy(np.partition(values.numpy(), k - 1)[k - 1 : k])


def _whole_numbers(wanted: Mapping[str, float], total: int) -> dict[str, int]:
    """Round to whole numbers that add up to `total`: the largest remainders are rounded up."""
    floors = {name: math.floor(value) for name, value in wanted.items()}
    by_remainder = sorted(wanted, key=lambda name: (floors[name] - wanted[name], name))
    for name in by_remainder[: total - sum(floors.values())]:
        floors[name] += 1
    return floors
