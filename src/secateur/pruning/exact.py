"""Cuts said exactly: amounts of single groups, and the very units to remove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from secateur.core.errors import InputError
from secateur.graph.groups import Group, Groups
from secateur.graph.naming import assigned
from secateur.pruning.allocate_units import UnitMasks


def own_amounts(groups: Groups, chosen: Sequence[Group], amounts: Mapping[str, float]) -> dict[str, float]:
    """Return group name → amount for those of the `chosen` groups that have one, by their name or a layer's.

    Raises `InputError` for a name that means none of them, and for two as exact ones for one group.
    """
    return {name: amounts[entry] for name, entry in assigned(groups, amounts, chosen).items()}


def named_units(groups: Groups, chosen: Sequence[Group], units: Mapping[str, Sequence[int]]) -> UnitMasks:
    """Return group name → boolean [units], False for exactly the named units, for the groups that are named.

    Raises `InputError` for a name that means none of the `chosen` groups or several, a unit that is not there, and
    for all units of a group.
    """
    entries = assigned(groups, units, chosen)
    sizes = {each.name: each.units for each in chosen}
    masks: UnitMasks = {}
    for name, entry in entries.items():
        several = [other for other, same in entries.items() if same == entry]
        if len(several) > 1:
            raise InputError(f"'{entry}' names several groups, {', '.join(several)}: give each its units.")
        beyond = [unit for unit in units[entry] if unit >= sizes[name]]
        if beyond:
            raise InputError(f"{name} has no unit {beyond[0]}: its units are 0 to {sizes[name] - 1}.")
        if len(units[entry]) == sizes[name]:
            raise InputError(f"These are all {sizes[name]} units of {name}: one has to stay.")
        masks[name] = torch.ones(sizes[name], dtype=torch.bool)
        masks[name][list(units[entry])] = False
    return masks
