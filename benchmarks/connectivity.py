"""From when on is a training stable to the order of the data? LeNet-300-100 on MNIST, ResNet-20 on part of CIFAR-10.

Schedules are short: EPOCHS passes over IMAGES. A network is trained once; from its weights after 0 to 50 % of the
iterations two children are trained to the end in different orders, and error is measured at POINTS places on the line
between them: dense ones, and tickets, which from that moment on have the LEFT weights of largest magnitude at the end
of the training. One cell is one network, seed and moment; it is recorded when it is there, and a repeated call
continues. The charts are docs/images/connectivity.svg and connectivity-tickets.svg.

    python benchmarks/connectivity.py --data-root DIR [--seeds 2] [--left 1.0 0.2] [--threads 1]
"""

from __future__ import annotations

import itertools
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from harness import earlier_rows, parser, record
from secateur.core.tables import COUNT, PERCENT, Column, Table
from secateur.report.charts import barrier_over_k, save
from secateur.steps import Instability, Prune, Train

NAME, POINTS, LEFT = "connectivity", 11, (1.0, 0.2)
MOMENTS = ("0%", "10%", "30%", "3%", "50%", "1%")
NETWORKS: dict[str, dict[str, Any]] = {
    "lenet300": {
        "model": "lenet300",
        "data": "mnist",
        "epochs": 4,
        "batch_size": 60,
        "optimizer": "adam",
        "lr": 1.2e-3,
        "weight_decay": 0.0,
        "schedule": "constant",
    },
    "resnet20": {
        "model": "resnet20",
        "data": "cifar10",
        "train_subset": 5_000,
        "epochs": 8,
        "batch_size": 64,
        "lr": 0.05,
        "weight_decay": 1e-4,
        "warmup": "10%",
        "precision": "bf16-mixed",
    },
}
SETTINGS = {**NETWORKS, "points": POINTS, "samples": 2_000, "batches": 20}
CALLED = {"lenet300": "LeNet-300-100, MNIST", "resnet20": "ResNet-20, 5,000 images of CIFAR-10"}
PICTURES = Path(__file__).parent.parent / "docs/images"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=2, help="how many trainings of each network")
    options.add_argument("--left", type=float, nargs="+", default=LEFT, help="which fractions of the weights")
    options.add_argument("--out", default="build/connectivity", help="folder of trainings and cells")
    given = options.parse_args()
    torch.set_num_threads(given.threads or 1)
    rows = earlier_rows(NAME, SETTINGS)
    for seed, name in itertools.product(range(given.seeds), NETWORKS):
        own = {**NETWORKS[name], "seed": seed, "evaluate_every": "100%", "data_root": given.data_root}
        folder = Path(given.out) / f"{name}-{seed}"
        for left, moment in itertools.product(given.left, MOMENTS):
            if any(is_cell(row, name, left, seed, moment) for row in rows):
                continue
            Train(**own, out=str(folder / "dense"), snapshots=MOMENTS)()
            ticket = str(folder / f"{left:.0%}")
            if left < 1:
                Prune(run=str(folder / "dense"), amount=1 - left, out=ticket, data_root=given.data_root)()
            step = Instability(
                **own,
                out=str(folder),
                at=(moment,),
                masks=ticket if left < 1 else None,
                points=POINTS,
                samples=2_000,
                batches=20,
            )
            rows += [row(name, left, seed, cell) for cell in step().record]
            print({key: value for key, value in rows[-1].items() if key != "path"}, flush=True)
            keep(rows)


def is_cell(row: dict[str, Any], name: str, left: float, seed: int, moment: str) -> bool:
    """Whether a row is of this network, seed and moment."""
    same = (row["network"], row["left"], row["seed"]) == (name, left, seed)
    return same and round(100 * row["share"]) == int(moment.removesuffix("%"))


def row(name: str, left: float, seed: int, cell: dict[str, Any]) -> dict[str, Any]:
    ends = (cell["rows"][0], cell["rows"][-1])
    return {
        "network": name,
        "left": left,
        "seed": seed,
        "k": cell["k"],
        "share": cell["k"] / cell["total"],
        "train": cell["barrier"]["train_error"],
        "test": cell["barrier"]["test_error"],
        "loss": cell["barrier"]["test_loss"],
        "ends": fmean(end["test_error"] for end in ends),
        "statistics": cell["statistics"],
        "path": cell["rows"],
    }


def keep(rows: list[dict[str, Any]]) -> None:
    columns = [
        Column("network", "Network"),
        Column("left", "Weights left"),
        Column("k", "k", COUNT),
        Column("share", "of the training", PERCENT),
        Column("seeds", "Seeds", COUNT),
        Column("train", "Barrier, train", PERCENT),
        Column("test", "Barrier, test", PERCENT),
        Column("ends", "Error of the ends, test", PERCENT),
    ]
    record(
        NAME,
        {"rows": rows},
        table=Table(columns, [mean(*place, rows) for place in places(rows)]),
        command="python benchmarks/connectivity.py",
        settings=SETTINGS,
    )
    dense = [point(row, split) for row in rows for split in ("train", "test") if row["left"] == 1]
    tickets = [point(row, "test", f"{100 * row['left']:.0f} % left") for row in rows]
    for name, points in (("connectivity", dense), ("connectivity-tickets", tickets)):
        save(barrier_over_k(points, "k, percent of the iterations"), PICTURES / name, ["svg"])


def point(row: dict[str, Any], split: str, *more: str) -> dict[str, Any]:
    """Return a point of a chart."""
    series = ", ".join((CALLED[row["network"]].partition(",")[0], *more, split))
    return {"series": series, "k": round(100 * row["share"]), "barrier": row[split]}


def places(rows: list[dict[str, Any]]) -> list[tuple[str, float, int]]:
    """Return network, weights left and k of all rows, networks in the order of `NETWORKS`."""
    return sorted(
        {(row["network"], row["left"], row["k"]) for row in rows},
        key=lambda at: (list(NETWORKS).index(at[0]), -at[1], at[2]),
    )


def mean(name: str, left: float, k: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over seeds."""
    own = [row for row in rows if (row["network"], row["left"], row["k"]) == (name, left, k)]
    means = {key: fmean(row[key] for row in own) for key in ("share", "train", "test", "ends")}
    return {"network": CALLED[name], "left": f"{100 * left:.0f} %", "k": k, "seeds": len(own), **means}


if __name__ == "__main__":
    main()
