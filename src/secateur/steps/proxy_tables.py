"""Input files of scoring by proxies, and its tables: networks, best first, and proxies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError
from secateur.core.files import read_json
from secateur.core.tables import COUNT, MILLISECONDS, NUMBER, Column, Format, Table
from secateur.models import nasbench201
from secateur.proxies import PROXIES, NetworkScores

PARTS = ("scores", "seconds", "reasons")
RATIO = Format(lambda value: f"{value:.3f}".replace("-", "−"))


def is_cell(name: str) -> bool:
    """Whether a name is a cell of NAS-Bench-201 in its usual notation."""
    return name.startswith("|")


def canonical(name: str) -> str:
    """Return a name, a cell in its usual notation. Raises `InputError` for an invalid cell."""
    return nasbench201.written(nasbench201.parse(name)) if name.startswith(("|", "[")) else name


def read_cells(path: Path) -> list[str]:
    """Return the cells in a JSON file. Raises `InputError` for other content."""
    content = read_json(path)
    if (
        not isinstance(content, list | dict)
        or not content
        or not all(isinstance(name, str) for name in content)
    ):
        raise InputError(f"{path} holds no cells: give a JSON list of them, or an object with cells as keys.")
    return [nasbench201.written(nasbench201.parse(name)) for name in content]


def read_accuracies(path: Path) -> dict[str, float]:
    """Return the accuracies in a JSON file, by name of the network. Raises `InputError` for other content."""
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{path} holds no accuracies: give a JSON object, names of networks with a number each."
        )
    for name, reached in content.items():
        if not _is_number(reached):
            raise InputError(
                f"{path} gives {name} the accuracy {json.dumps(reached)[:40]}: give a number, or leave it out."
            )
    return {canonical(name): float(reached) for name, reached in content.items()}


def is_record(record: Any) -> bool:
    """Whether a value read from JSON is the record of a network."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("name"), str)
        and isinstance(record.get("settings"), dict)
        and all(isinstance(record.get(part), dict) for part in PARTS)
        and all(_is_number(number) for part in PARTS[:2] for number in record[part].values())
    )


def by_network(rows: Sequence[NetworkScores], asked: Sequence[str]) -> Table:
    """Return a row for each network, best first by the first selected vote or else the first proxy."""
    first = next((name for name in asked if PROXIES[name].voters), asked[0])
    best = sorted(rows, key=lambda row: -row.scores.get(first, -math.inf))
    columns = [Column("name", "Network"), *(Column(name, name, NUMBER) for name in asked)]
    lines = [{"name": row.name, **row.scores, "seconds": _seconds(row)} for row in best]
    return Table([*columns, Column("seconds", "Time", MILLISECONDS)], lines)


def by_proxy(
    rows: Sequence[NetworkScores], asked: Sequence[str], found: Mapping[str, Mapping[str, float | None]]
) -> Table:
    """Return a row for each proxy: its rank correlations with the accuracies, and the mean time per network."""
    lines = [
        {
            "proxy": name,
            **found[name],
            "seconds": mean([row.seconds[name] for row in rows if name in row.seconds]),
        }
        for name in asked
        if name in found
    ]
    columns = [
        Column("proxy", "Proxy"),
        Column("spearman", "Spearman", RATIO),
        Column("kendall", "Kendall", RATIO),
        Column("pairs", "Pairs in order", RATIO),
        Column("networks", "Networks", COUNT),
        Column("seconds", "Time a network", MILLISECONDS),
    ]
    return Table(columns, lines)


def told(rows: Sequence[NetworkScores]) -> list[str]:
    """Return the reasons for missing scores, each once for all networks and proxies with it."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        own = {name: reason for name, reason in row.reasons.items() if not PROXIES[name].voters}
        for reason in dict.fromkeys(own.values()):
            names = ", ".join(name for name in own if own[name] == reason)
            found.setdefault((names, reason), []).append(row.name)
    return [f"No {names} of {_listed(networks)}: {reason}" for (names, reason), networks in found.items()]


def _listed(names: Sequence[str], most: int = 3) -> str:
    """Return the only name, or the number of names and the first `most`."""
    if len(names) == 1:
        return names[0]
    return f"{len(names)} networks ({', '.join(names[:most])}{', …' if len(names) > most else ''})"


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, None for no values."""
    return math.fsum(values) / len(values) if values else None


def _seconds(row: NetworkScores) -> float | None:
    """Return the total seconds of the proxies that score networks one by one."""
    taken = [seconds for name, seconds in row.seconds.items() if not PROXIES[name].voters]
    return math.fsum(taken) if taken else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
