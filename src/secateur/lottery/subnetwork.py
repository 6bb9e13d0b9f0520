"""What a cut leaves of a dense network: weights under masks, or the tensors of a smaller network.

Of weights and patterns N:M it is masks (`secateur.lottery.cut`), of channels, heads and layers a smaller model of the
same class. Either can be given any weights the dense network had: those of a smaller one are what its plan keeps of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.lottery.cutting import check, cut
from secateur.lottery.levels import check_rate, left_of
from secateur.measure.inputs import ModelInputs
from secateur.pruning.api import prune
from secateur.pruning.result import Pruned
from secateur.shrink.apply import apply
from secateur.sparsity.granularity import parse
from secateur.sparsity.masks import Masks


@dataclass(frozen=True)
class Subnetwork:
    """`model` with the values it was cut with, and `masks` that are still to be applied to it.

    Of `whole` weights or units that might go in the dense network, `left` are left. `pruned` is the cut where it made
    the model smaller.
    """

    model: nn.Module
    masks: Masks
    left: int
    whole: int
    pruned: Pruned | None = None

    def of(self, state: Mapping[str, Tensor], make: Callable[[], nn.Module]) -> Mapping[str, Tensor]:
        """Return what is left of a `state_dict` of the dense network, which `make` makes one of; masks aside."""
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
    """Cut a level: of what is left of a dense network in `model` and `masks` the least important goes.

    `before` are the units left and those there were, where an earlier level cut units. `how` are the other arguments
    of `secateur.lottery.cut`, and so are the errors; `rate` and `level` among them. Units need `example_inputs`, have
    no `layer_rates`, and the model stays as it is.

    >>> found = subnetwork(nn.Linear(10, 10), rate=0.2, level=2)
    >>> found.left, found.whole
    (64, 100)
    """
    cutter = by_plan if parse(granularity).removes else by_masks
    return cutter(model, masks or {}, before, granularity=granularity, **how)


def by_masks(
    model: nn.Module, masks: Mapping[str, Tensor], before: tuple[int, int] | None, **how: Any
) -> Subnetwork:
    """Cut weights."""
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
    """Cut units: after level t round((1 − (1 − p)^t) n) of n are gone.

    Statistics of normalisations are not corrected: what a network starts from is for the start to say.
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
        pruned = cut(amount=go / max(1, left))
        if _units(pruned)[0] != left:  # the last of a group is none of those that may go
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
