"""Groups in words: what a unit runs through and what goes with it, short enough for a person to read.

Tensors of one shape whose names differ only in numbers, such as those of a stack of alike layers, are told as one:
`blocks.*.norm1.weight`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from secateur.graph.coupling import Coupling
from secateur.graph.units import Group, Member

PATH_NUMBER = re.compile(r"(?<![A-Za-z0-9:])\d+(?=[. ]|$)")
"""A number that stands alone in a dotted path: the 3 of layers.3.weight, not those of conv1 or file.py:12."""


def shape_of(coupling: Coupling, name: str) -> tuple[int, ...]:
    """Return the shape of the parameter or buffer `name`."""
    program = coupling.program
    return program.values[program.tensors[name]].shape


def unit_parameters(coupling: Coupling, group: Group) -> int:
    """Return how many parameters go with one unit of `group`."""
    left: dict[str, list[int]] = {}
    for member in group.members:
        if not member.buffer:
            sizes = left.setdefault(member.name, list(shape_of(coupling, member.name)))
            sizes[member.dim] -= int((member.unit >= 0).sum()) // group.units
    return sum(math.prod(shape_of(coupling, name)) - math.prod(sizes) for name, sizes in left.items())


def written(coupling: Coupling, member: Member) -> str:
    """Write a tensor's shape with the member's dimension in brackets: "[64]×3×7×7", "[64 of 256]" for a part of it."""
    shape = shape_of(coupling, member.name)
    inside = int((member.unit >= 0).sum())
    part = "" if inside == shape[member.dim] else f"{inside} of "
    return "×".join(f"[{part}{size}]" if dim == member.dim else str(size) for dim, size in enumerate(shape))


def through(coupling: Coupling, group: Group) -> list[str]:
    """Return a line for every parameter that a group runs through: its name and shape, alike ones once."""
    parameters = [member for member in group.members if not member.buffer]
    return alike((member.name, written(coupling, member)) for member in parameters)


def locked(coupling: Coupling, groups: Iterable[Group]) -> dict[str, list[str]]:
    """Return for every reason to stay what stays for it: name, place in the code and shape, alike ones once."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for group in groups:
        if group.lock is not None:
            first = group.members[0]
            found[group.lock.reason].append((f"{first.name} ({group.lock.at})", written(coupling, first)))
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


def branches(
    coupling: Coupling, groups: Iterable[Group], kept: Mapping[str, int] | None = None
) -> list[tuple[str, list[str]]]:
    """Return the groups that may be cut, with the lines of `through`, then what is `locked`, by reason.

    With `kept`, group name → units left, a group tells how many of its units are left.
    """
    groups = list(groups)
    free = [group for group in groups if group.lock is None and group.units > 1]
    found = [(_heading(coupling, group, kept), through(coupling, group)) for group in free]
    return found + [(f"stays, because {reason}", lines) for reason, lines in locked(coupling, groups).items()]


def _heading(coupling: Coupling, group: Group, kept: Mapping[str, int] | None) -> str:
    left = "" if kept is None else f"{kept[group.name]:,} of "
    return f"{group.name}: {left}{group.units:,} {group.noun}, {unit_parameters(coupling, group):,} parameters each"


def drawn(title: str, branches: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a tree of two levels as text.

    >>> print(drawn("root", [("a", ["b", "c"]), ("d", [])]))
    root
    ├── a
    │   ├── b
    │   └── c
    └── d
    """
    lines = [title]
    for at, (branch, leaves) in enumerate(branches):
        last = at == len(branches) - 1
        lines.append(f"{'└' if last else '├'}── {branch}")
        ends = ["├"] * (len(leaves) - 1) + ["└"]
        lines += [f"{' ' if last else '│'}   {end}── {leaf}" for end, leaf in zip(ends, leaves, strict=False)]
    return "\n".join(lines)
