"""Results of cuts: records of plain values, and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from secateur.graph.outline import through
from secateur.pruning.result import Pruned
from secateur.sparsity.masks import Masks
from secateur.steps.base import SAMPLES, percent


def plain(value: Any) -> Any:
    """Return a value in JSON types: other objects, such as tensors, are omitted, non-finite numbers become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items() if _is_plain(part)}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value if _is_plain(part)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_plain(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping | list | tuple | str | int | float) and not isinstance(value, Masks)
    )


def sparser(pruned: Pruned) -> dict[str, Any]:
    """Return the record of a cut of weights."""
    counts = {"pruned": pruned.masks.pruned, "prunable": pruned.masks.total}
    return {**counts, **({"redistributed": dict(pruned.redistributed)} if pruned.redistributed else {})}


def tell_sparser(result: Mapping[str, Any], of: str = "prunable weights") -> str:
    """Return the sentence for a record of `sparser`."""
    return (
        f"removed {result['pruned']:,} of {result['prunable']:,} {of} "
        f"({percent(result['achieved'])}, requested {percent(result['requested'])})"
    )


def smaller(pruned: Pruned) -> dict[str, Any]:
    """Return the record of a cut of units: [before, after] of parameters and MACs a sample, verification, groups."""
    assert pruned.parameters is not None
    assert pruned.macs is not None
    assert pruned.verification is not None
    return {
        "parameters": list(pruned.parameters),
        "macs": [macs // SAMPLES for macs in pruned.macs],
        "verification": asdict(pruned.verification),
        "groups": [
            {
                "name": group.name,
                "units": group.units,
                "kept": pruned.kept[group.name],
                "through": _few(through(pruned.groups.coupling, group)),
            }
            for group in pruned.groups.free
        ]
        if pruned.groups is not None
        else [{"name": block, "units": 1, "kept": kept} for block, kept in pruned.kept.items()],
    }


def tell_smaller(result: Mapping[str, Any], what: str) -> str:
    """Return the sentence for a record of `smaller`."""
    costs = [
        f"{before:,} → {after:,} {name} ({percent(after / max(1, before))} left)"
        for name, (before, after) in (("parameters", result["parameters"]), ("MACs", result["macs"]))
    ]
    return (
        f"{costs[0]}, {costs[1]}, removed {percent(result['achieved'])} of the {what}s, "
        f"verified to {result['verification']['error']:.0e}"
    )


def _few(lines: Sequence[str], most: int = 6) -> str:
    """Return the first `most` lines as one, with the number of the others."""
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(" ".join(line.split()) for line in lines[:most]) + more
