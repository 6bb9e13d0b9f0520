"""Groups in words: what a unit runs through and what goes with it, short enough for a person to read.

Tensors of one shape whose names differ only in numbers, such as those of a stack of alike layers, are told as one:
`blocks.*.norm1.weight`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable

from secateur.graph.groups import Group, Groups, Member

PATH_NUMBER = re.compile(r"(?<![A-Za-z0-9:])\d+(?=[. ]|$)")
"""A number that stands alone in a dotted path: the 3 of layers.3.weight, not those of conv1 or file.py:12."""


def shape_of(groups: Groups, name: str) -> tuple[int, ...]:
    """Return the shape of the parameter or buffer `name`."""
    program = groups.coupling.program
    return program.values[program.tensors[name]].shape


def unit_parameters(groups: Groups, group: Group) -> int:
    """Return how many parameters go with one unit of `group`."""
    left: dict[str, list[int]] = {}
    for member in group.members:
        if not member.buffer:
            sizes = left.setdefault(member.name, list(shape_of(groups, member.name)))
            sizes[member.dim] -= int((member.unit >= 0).sum()) // group.units
    return sum(math.prod(shape_of(groups, name)) - math.prod(sizes) for name, sizes in left.items())


def written(groups: Groups, member: Member) -> str:
    """Write a tensor's shape with the member's dimension in brackets: "[64]×3×7×7", "[64 of 256]" for a part of it."""
    shape = shape_of(groups, member.name)
    inside = int((member.unit >= 0).sum())
    part = "" if inside == shape[member.dim] else f"{inside} of "
    return "×".join(f"[{part}{size}]" if dim == member.dim else str(size) for dim, size in enumerate(shape))


def through(groups: Groups, group: Group) -> list[str]:
    """Return a line for every parameter that a group runs through: its name and shape, alike ones once."""
    parameters = [member for member in group.members if not member.buffer]
    return alike((member.name, written(groups, member)) for member in parameters)


def locked(groups: Groups) -> dict[str, list[str]]:
    """Return for every reason to stay what stays for it: name, place in the code and shape, alike ones once."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for group in groups:
        if group.lock is not None:
            first = group.members[0]
            found[group.lock.reason].append((f"{first.name} ({group.lock.at})", written(groups, first)))
    return {reason: alike(stays) for reason, stays in found.items()}


def alike(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Write (name, detail) pairs as lines, those whose names differ only in numbers as one, with their count.

    >>> alike([("layers.0.weight", "[4]"), ("layers.1.weight", "[4]"), ("head.weight", "[2]")])
    ['layers.*.weight  [4]  ×2', 'head.weight  [2]']
    """
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, detail in pairs:
        found[PATH_NUMBER.sub("*", name), detail].append(name)
    return [
        f"{names[0]}  {detail}" if len(names) == 1 else f"{pattern}  {detail}  ×{len(names)}"
        for (pattern, detail), names in found.items()
    ]
