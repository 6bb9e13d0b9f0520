"""Output of the coupled groups of a model: a tree, a table and JSON."""

from __future__ import annotations

from typing import Any

from rich.text import Text
from rich.tree import Tree

from secateur.core.tables import COUNT, Column, Table
from secateur.core.visible import visible
from secateur.graph.groups import Group, Groups
from secateur.graph.outline import branches, unit_parameters
from secateur.runs.run import Run
from secateur.steps.base import Outcome

GROUP_COLUMNS = (
    Column("group", "Group"),
    Column("kind", "Kind"),
    Column("units", "Units", COUNT),
    Column("unit_parameters", "Parameters per unit", COUNT),
    Column("tensors", "Tensors", COUNT),
    Column("lock", "Stays because"),
    Column("at", "At"),
)


def outcome(run: Run, groups: Groups) -> Outcome:
    """Return a run's groups as a tree, a table and JSON."""
    rows = [_row(groups, group) for group in groups]
    lines = [
        f"{run.folder} ({run.title}): {len(groups)} groups, {len(groups.free)} of which may be cut, with "
        f"{sum(group.units for group in groups.free):,} units"
    ]
    if groups.unknown:
        met = ", ".join(f"{name} ({count})" for name, count in groups.unknown.items())
        lines.append(f"What these operators touch stays, as no rule knows them: {met}")
    for fault, count in groups.faults.items():
        lines.append(
            f"What {fault.operator} touches stays ({count}): its rule failed with {fault.error} at {fault.line}, "
            "which is a fault of secateur's; please report it."
        )
    record = {
        "run": run.name,
        "groups": [{**row, "members": _members(group)} for row, group in zip(rows, groups, strict=True)],
        "unknown": groups.unknown,
        "faults": [fault._asdict() | {"count": count} for fault, count in groups.faults.items()],
    }
    return Outcome(tuple(lines), Table(GROUP_COLUMNS, rows), record, tree(groups, run.name))


def tree(groups: Groups, title: str) -> Tree:
    """Return the tree of the prunable groups with their tensors, followed by the locked groups, by reason."""
    root = Tree(Text(visible(title)))
    for heading, lines in branches(groups.coupling, groups):
        branch = root.add(Text(visible(heading)))
        for line in lines:
            branch.add(Text(visible(line)))
    return root


def _row(groups: Groups, group: Group) -> dict[str, Any]:
    return {
        "group": group.name,
        "kind": group.noun,
        "units": group.units,
        "unit_parameters": unit_parameters(groups.coupling, group),
        "tensors": len({member.name for member in group.members}),
        "lock": group.lock and group.lock.reason,
        "at": group.lock and group.lock.at,
    }


def _members(group: Group) -> list[dict[str, Any]]:
    return [
        {
            "name": member.name,
            "dim": member.dim,
            "indices": int((member.unit >= 0).sum()),
            "buffer": member.buffer,
        }
        for member in group.members
    ]
