"""Zero-cost proxies against the accuracies of NAS-Bench-201: rank correlations and seconds, for cells drawn at random.

Every network is scored on one batch of 64 training images of CIFAR-10, as it is built by the seed. Accuracies are those
of trained networks on the test images, from DATA_ROOT/nasbench201/cifar10_accuracy.json. Each cell is recorded when it
is done, and a call continues from the cells that are there.

With --conventions the same is done under other conventions (where weights start, what BatchNorm normalises by), without
grasp, on fewer cells, and recorded apart.

    python benchmarks/proxies.py --data-root DIR [--cells 500] [--conventions] [--fast] [--threads 1]
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from harness import earlier_rows, parser, record
from secateur import build, load_data, proxies
from secateur.core.tables import COUNT, MILLISECONDS, Column, Format, Table
from secateur.data import Dataset
from secateur.models import nasbench201
from secateur.proxies import PROXIES, NetworkScores
from secateur.proxies.pairs import signs

BATCH = 64
SEED = 0
PUBLISHED = {
    "synflow": 0.737,
    "jacob_cov": 0.731,
    "snip": 0.596,
    "grad_norm": 0.594,
    "grasp": 0.514,
    "fisher": 0.360,
}
"""Abdelfattah et al. 2021, table 1, CIFAR-10: the absolute value of Spearman's ρ over all 15,625 networks."""
PUBLISHED_PAIRS = {"vote": 0.817}
"""Their number for the vote is the share of pairs in the right order."""


@dataclass(frozen=True)
class Convention:
    """How networks are built and proxies measured."""

    initial: str = "torch"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = SEED


CONVENTIONS = {
    "as published": Convention(),
    "another seed for weights and batch": Convention(seed=1),
    "He's initial weights": Convention("kaiming"),
    "BatchNorm in eval mode": Convention(options={"batch_norm": "eval"}),
    "BatchNorm removed": Convention(options={"batch_norm": "removed"}),
}
GOOD = 90
"""From which accuracy on, in percent, a network is a good one: the second correlation is among those alone."""
SLOW = ("grasp",)
"""What takes longer than all the others together comes last."""
RATIO = Format(lambda value: f"{value:.3f}")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--cells", type=int, default=None, help="how many; 500, or 60 with --conventions")
    arguments.add_argument("--conventions", action="store_true", help="compare conventions")
    arguments.add_argument("--fast", action="store_true", help=f"leave {', '.join(SLOW)} to another call")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads or 1)
    data = load_data("cifar10", given.data_root)
    accuracies = known(Path(given.data_root) / "nasbench201/cifar10_accuracy.json")
    name = "proxies_conventions" if given.conventions else "proxies"
    conventions = CONVENTIONS if given.conventions else dict(list(CONVENTIONS.items())[:1])
    asked = proxies.with_voters(p for p in PROXIES if p not in SLOW or not (given.conventions or given.fast))
    cells = [
        nasbench201.written(cell)
        for cell in nasbench201.draw(given.cells or (60 if given.conventions else 500), SEED)
    ]
    rows = earlier_rows(name)
    facts: dict[str, Any] = {
        "command": f"python benchmarks/proxies.py{' --conventions' if given.conventions else ''}",
        "seed": SEED,
        "data": f"CIFAR-10, {BATCH} training images",
        "fingerprint": data.fingerprint(),
    }

    table = compared if given.conventions else measured
    kept = {(row["name"], row["convention"]): row for row in rows}
    for part in ([p for p in asked if p not in SLOW], [p for p in asked if p in SLOW]):
        for cell, convention in itertools.product(cells, conventions):
            empty = {"name": cell, "scores": {}, "seconds": {}, "reasons": {}, "convention": convention}
            row = kept.setdefault((cell, convention), empty)
            lacking = [p for p in part if p not in row["scores"] and p not in row["reasons"]]
            if lacking:
                how = conventions[convention]
                built = iter([(cell, partial(build, "nasbench201", arch=cell, initial=how.initial))])
                (found,) = proxies.stream(built, lacking, batch(data, how.seed), how.seed, **how.options)
                for key in ("scores", "seconds", "reasons"):
                    row[key].update(getattr(found, key))
                rows = list(kept.values())
                record(name, {"rows": rows}, **facts)
    if not given.conventions:
        facts["vote_pairs_by_majority"] = by_majority(of(rows, "as published", cells), accuracies)
    record(name, {"rows": rows}, table=table(accuracies, rows, cells), **facts)


def by_majority(rows: list[NetworkScores], accuracies: dict[str, float]) -> float:
    """Share of pairs in which the majority of the voters prefers the better network, as the paper counts it."""
    scored = [row for row in rows if "vote" in row.scores]
    votes = torch.tensor(
        [[row.scores[p] for row in scored] for p in PROXIES["vote"].voters], dtype=torch.float64
    )
    reached = torch.tensor([[accuracies[row.name] for row in scored]], dtype=torch.float64)
    majority = signs(votes, slice(None)).sum(0).sign()
    better = signs(reached, slice(None))[0]
    return float(((majority * better)[better != 0].double().mean() + 1) / 2)


@cache
def batch(data: Dataset, seed: int) -> tuple[Any, Tensor]:
    """One batch of normalised training images, and their labels."""
    chosen = data.subset(train=BATCH, seed=seed).train
    return data.normalised(chosen.inputs), chosen.labels


def known(path: Path) -> dict[str, float]:
    """Accuracies by cell, as it is usually written."""
    found = json.loads(path.read_text())
    return {nasbench201.written(nasbench201.parse(cell)): reached for cell, reached in found.items()}


def of(rows: list[dict[str, Any]], convention: str, cells: list[str]) -> list[NetworkScores]:
    """The rows of a convention with their votes."""
    found = {row["name"]: row for row in rows if row["convention"] == convention}
    cells = [cell for cell in cells if cell in found]
    fields = ("name", "scores", "seconds", "reasons")
    return proxies.voted(
        [NetworkScores(**{key: copy(found[cell][key]) for key in fields}) for cell in cells], ["vote"]
    )


def measured(accuracies: dict[str, float], rows: list[dict[str, Any]], cells: list[str]) -> Table:
    """One line a proxy."""
    ours = of(rows, "as published", cells)
    good = [cell for cell in cells if accuracies[cell] >= GOOD]
    among = proxies.correlations(of(rows, "as published", good), accuracies)
    lines = []
    for proxy, found in proxies.correlations(ours, accuracies).items():
        seconds = median(row.seconds[proxy] for row in ours if proxy in row.seconds)
        lines.append(
            {
                "proxy": proxy,
                **found,
                "published": PUBLISHED.get(proxy),
                "published_pairs": PUBLISHED_PAIRS.get(proxy),
                "good": among[proxy]["spearman"],
                "first": max(
                    (row.scores[proxy], accuracies[row.name]) for row in ours if proxy in row.scores
                )[1],
                "seconds": seconds,
            }
        )
    columns = [
        Column("proxy", "Proxy"),
        Column("spearman", "Spearman", RATIO),
        Column("published", "published", RATIO),
        Column("kendall", "Kendall", RATIO),
        Column("pairs", "Pairs in order", RATIO),
        Column("published_pairs", "published", RATIO),
        Column("good", f"Spearman from {GOOD} % on", RATIO),
        Column("first", "Its first choice", Format(lambda value: f"{value:.2f} %")),
        Column("networks", "Networks", COUNT),
        Column("seconds", "Time a network (median)", MILLISECONDS),
    ]
    return Table(columns, sorted(lines, key=lambda line: -(line["spearman"] or 0)))


def compared(accuracies: dict[str, float], rows: list[dict[str, Any]], cells: list[str]) -> Table:
    """One line a convention, Spearman's ρ of each proxy."""
    lines: list[dict[str, Any]] = []
    for convention in CONVENTIONS:
        found = proxies.correlations(of(rows, convention, cells), accuracies)
        lines.append({"convention": convention, **{proxy: each["spearman"] for proxy, each in found.items()}})
    shown = [proxy for proxy in PROXIES if proxy in lines[0]]
    return Table(
        [Column("convention", "Convention"), *(Column(proxy, proxy, RATIO) for proxy in shown)], lines
    )


if __name__ == "__main__":
    main()
