"""Subnetworks of a dense network: weights under masks, or the tensors of a smaller network.

Weights and patterns N:M are cut by masks (`secateur.lottery.cut`); channels, heads and layers by a plan that makes a
smaller model of the same class. Either can be filled with other weights of the dense network, such as earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from secateur.core.brief import Brief
from secateur.core.copying import duplicate
from secateur.core.errors import InputError, ModelError
from secateur.lottery.cutting import check, cut
from secateur.lottery.levels import check_rate, left_of
from secateur.measure.inputs import ModelInputs
from secateur.pruning.api import prune
from secateur.pruning.result import Pruned
from secateur.shrink.apply import apply
from secateur.sparsity.granularity import parse
from secateur.sparsity.masks import Masks


@dataclass(frozen=True, repr=False)
class Subnetwork(Brief):
    """A cut `model`, with its values before the cut, and `masks` that are not yet applied to it.

    Of the `whole` number of prunable weights or units of the dense network, `left` are left. `pruned` is the cut of
    units; None for weights, and where no unit is left that may go and none has to.
    """

    model: nn.Module
    masks: Masks
    left: int
    whole: int
    pruned: Pruned | None = None

    def of(self, state: Mapping[str, Tensor], make: Callable[[], nn.Module]) -> Mapping[str, Tensor]:
        """Return the part of a `state_dict` of the dense network that is in this one; masks are not applied.

        `make` returns a model of the dense network's shapes, which is cut in place.
        """
        plan = getattr(self.model, "secateur_plan", None)
        if plan is None:
            return state
        dense = make()
        dense.load_state_dict(state)
        return apply(dense, plan, inplace=True).state_dict()


def subnetwork(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    *,
    before: tuple[int, int] | None = None,
    granularity: str = "weight",
    **how: Any,
) -> Subnetwork:
    """Cut a level: the least important weights or units of the network left in `model` and `masks`.

    `before` is (units left, units of the dense network) after an earlier cut of units, None before the first. `how`
    are the other arguments of `secateur.lottery.cut`, `rate` and `level` among them, and its errors are raised. Units
    need `example_inputs` and have no `layer_rates`. The model is unchanged.

    >>> found = subnetwork(nn.Linear(10, 10), rate=0.2, level=2)
    >>> found.left, found.whole
    (64, 100)
    """
    cutter = by_plan if parse(granularity).removes else by_masks
    return cutter(model, masks or {}, before, granularity=granularity, **how)


def by_masks(
    model: nn.Module, masks: Mapping[str, Tensor], before: tuple[int, int] | None, **how: Any
) -> Subnetwork:
    """Cut weights, as `subnetwork`."""
    kept = cut(model, masks, **how)
    return Subnetwork(model, kept, kept.total - kept.pruned, kept.total)


def by_plan(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    before: tuple[int, int] | None,
    *,
    rate: float,
    level: float,
    granularity: str,
    layer_rates: Mapping[str, float] | None = None,
    example_inputs: ModelInputs | None = None,
    scope: str = "global",
    **how: Any,
) -> Subnetwork:
    """Cut units: after level t round((1 − (1 − p)^t) n) of n are cut.

    Statistics of normalisations are not corrected: the start sets the network's values. Raises `InputError` for a
    level that leaves too few units, or more than are left.
    """
    check(granularity, layer_rates)
    check_rate(rate, 1.0)
    share = 1 - left_of(rate, 1.0, level)
    cut = partial(
        prune,
        model,
        example_inputs,
        granularity=granularity,
        scope=scope,
        masks=masks or None,
        correct=False if parse(granularity).grouped else None,  # layers are never corrected for
        **how,
    )
    if before is None:
        pruned = cut(amount=share)
        left, whole = _units(pruned)[0], _units(pruned)[0]
    else:
        left, whole = before
        go = left - whole + round(share * whole)
        if go < 0:
            raise InputError(
                f"{left} of {whole} {granularity}s are left, and level {level:g} at the rate {rate:g} leaves "
                f"{left - go}: give a higher level."
            )
        try:
            pruned = cut(amount=go / max(1, left))
        except ModelError:
            if go:
                raise
            return Subnetwork(
                duplicate(model), Masks(masks), left, whole
            )  # nothing may go, and nothing has to
        if _units(pruned)[0] != left:  # the last unit of a group is not prunable
            pruned = cut(amount=min(1.0, go / max(1, _units(pruned)[0])))
    now, after = _units(pruned)
    wanted, left = whole - round(share * whole), left - (now - after)
    if left - wanted > (0 if scope == "global" else len(pruned.kept)):  # other scopes round in each group
        raise InputError(
            f"Level {level:g} at the rate {rate:g} leaves {wanted} of {whole} {granularity}s, and {left} must stay, "
            "one wherever there is any: go less far, by fewer levels (or a lower one), more left, or a smaller rate."
        )
    return Subnetwork(pruned.model, pruned.masks, left, whole, pruned)


def _units(pruned: Pruned) -> tuple[int, int]:
    assert pruned.units is not None
    return pruned.units
