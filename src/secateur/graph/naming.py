"""Names of groups: a group by its own name, or the groups whose units the named layers make.

The name of a free group, as `analyze` gives it, is that group alone. Any other name, of a module or a parameter, or a
glob, is a layer: it means the groups of which it holds every tensor that makes the units. So `*mlp*` means the width
inside the MLPs and not the residual stream, which the attention and the embedding make as well. A layer that makes
nothing, such as a normalisation, means the groups it shifts or scales.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from secateur.core.errors import InputError
from secateur.graph.groups import Group, Groups, Member
from secateur.sparsity.assigning import entry_of
from secateur.sparsity.targets import found, matches


def named(groups: Groups, patterns: Iterable[str]) -> list[Group]:
    """Return the free groups that names mean together, in the order of the model.

    Raises `InputError` for a name that is neither a group's nor a layer's.
    """
    own = {each.name for each in groups.free}
    patterns = tuple(patterns)
    layers = found((name for name in patterns if name not in own), _parameters(groups), own)
    scaling = [each for each in layers if not any(_any(_makers(group), (each,)) for group in groups)]
    return [
        each
        for each in groups.free
        if each.name in patterns or _all(_makers(each), layers) or _any(_followers(each), scaling)
    ]


def touched(groups: Groups, patterns: Iterable[str]) -> list[Group]:
    """Return the free groups that must stay for the named groups, and all tensors of the named layers, to stay.

    Raises `InputError` for a name that is neither a group's nor a layer's.
    """
    own = {each.name for each in groups.free}
    patterns = tuple(patterns)
    layers = found((name for name in patterns if name not in own), _parameters(groups), own)
    return [each for each in groups.free if each.name in patterns or _any(_owners(each), layers)]


def assigned(groups: Groups, entries: Mapping[str, Any], among: Collection[Group]) -> dict[str, str]:
    """Return group name → the entry that each group has, for those of `among` that have one; see `assigning`.

    Raises `InputError` for an unknown name, an entry that means no group of `among`, and two as exact ones for one.
    """
    meant = {entry: {each.name for each in named(groups, [entry])} for entry in entries}
    names = [each.name for each in among]
    for entry, own in meant.items():
        if not own.intersection(names):
            raise InputError(f"'{entry}' names no units that may go{_why(groups, entry)}.")
    own_entry = {
        name: entry_of(name, entries, [e for e, own in meant.items() if name in own]) for name in names
    }
    return {name: entry for name, entry in own_entry.items() if entry is not None}


def _why(groups: Groups, entry: str) -> str:
    """Return the reason for which a layer has no units that may go, as a clause; empty if it is left out."""
    part = shared(groups, [entry])
    if part is not None:
        return f": other layers make its units as well; name the group {part.name} to cut them all"
    layers = found([entry], _parameters(groups), [each.name for each in groups])
    locks = (each.lock for each in groups if each.lock is not None and _any(_makers(each), layers))
    lock = next(locks, None)
    return "" if lock is None else f": {lock.reason}, at {lock.at}"


def shared(groups: Groups, patterns: Iterable[str]) -> Group | None:
    """Return the first free group of which the named layers hold only a part of what makes its units."""
    own = [each.name for each in groups.free]
    layers = found((name for name in patterns if name not in own), _parameters(groups), own)
    partly = (each for each in groups.free if _any(_makers(each), layers) and not _all(_makers(each), layers))
    return next(partly, None)


def _parameters(groups: Groups) -> list[str]:
    return [*dict.fromkeys(member.name for each in groups for member in each.members)]


def _owners(group: Group) -> list[Member]:
    return [member for member in group.members if not member.buffer]


def _makers(group: Group) -> list[Member]:
    """Return the tensors that make the units; where none does, those that do not read them."""
    owners = _owners(group)
    return [each for each in owners if each.makes] or [each for each in owners if not each.reads]


def _followers(group: Group) -> list[Member]:
    return [each for each in _owners(group) if not each.makes and not each.reads]


def _any(members: Iterable[Member], layers: Iterable[str]) -> bool:
    layers = tuple(layers)
    return any(matches(member.name, each) for member in members for each in layers)


def _all(members: list[Member], layers: Iterable[str]) -> bool:
    return bool(members) and all(_any([member], layers) for member in members)
