"""What to rewind? ResNet-20 on part of CIFAR-10 with 20 and 10 % of its weights, by four ways of training on.

A dense training loses all but 20 or 10 % of its weights at once, by magnitude over all layers; then weights go back to
iteration 0 or to the end of epoch REWIND, or stay as trained while the schedule goes back there, or are fine-tuned at
the last learning rate for as many epochs. Schedules are short: EPOCHS passes over IMAGES, in three steps. Every cell
is a run folder below --runs, and what was recorded is not trained again, so that a repeated call continues.

    python benchmarks/rewinding.py --data-root DIR --runs FOLDER [--seeds 0 1 2] [--left 0.2 0.1] [--threads 1]
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from harness import earlier_rows, has, parser, record
from secateur.core.tables import Column, Table
from secateur.steps import Lottery, Train

NAME = "rewinding"
EPOCHS, REWIND, IMAGES = 24, 2, 20_000
TRAIN: dict[str, Any] = {
    "model": "resnet20",
    "data": "cifar10",
    "train_subset": IMAGES,
    "epochs": EPOCHS,
    "batch_size": 128,
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "multistep",
    "milestones": (12, 18),
    "precision": "bf16-mixed",
    "evaluate_every": "100%",
    "snapshots": ("0it", f"{REWIND}ep"),
}
LEFT = (0.2, 0.1)
WAYS: dict[str, dict[str, Any]] = {
    "weights rewound": {"starts": ("weights",), "rewind_to": f"{REWIND}ep"},
    "learning rate rewound": {"starts": ("lr",), "rewind_to": f"{REWIND}ep"},
    "fine-tuned": {"starts": ("none",), "finetune": EPOCHS - REWIND},
    "rewound to the start": {"starts": ("weights",), "rewind_to": "0it"},
}
SETTINGS = {"train": TRAIN, "cut": "magnitude, global, one shot", "ways": WAYS}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", required=True, help="folder of the run folders")
    options.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2), help="of the trainings")
    options.add_argument("--left", type=float, nargs="+", default=LEFT, help="which fractions of the weights")
    given = options.parse_args()
    torch.set_num_threads(given.threads or 1)
    root, rows = Path(given.runs), earlier_rows(NAME, SETTINGS)
    for seed, left in product(given.seeds, given.left):
        dense, cells = f"dense-{seed}", {"left": left, "seed": seed}
        if all(has(rows, way=way, **cells) for way in WAYS):
            continue
        fitted = Train(seed=seed, out=dense, **TRAIN)(root, data_root=given.data_root)
        if not has(rows, way="dense", seed=seed):
            rows.append({"way": "dense", "left": 1.0, "seed": seed, "top1": fitted.record["top1"]})
        for way, how in WAYS.items():
            if not has(rows, way=way, **cells):
                rows.append({"way": way, **cells, "top1": top1(root, dense, left, how, given.data_root)})
                print(rows[-1], flush=True)
                keep(rows)


def top1(root: Path, dense: str, left: float, how: dict[str, Any], data_root: str) -> float:
    """Cut a dense run once, train it again, and return what it reaches."""
    folder = f"{left:.0%}-{how['starts'][0]}-{how.get('rewind_to', 'end')}"
    search = Lottery(runs=(dense,), rate=1 - left, levels=1, one_shot=True, out=folder, **how)
    records = search(root, data_root=data_root).record
    (found,) = (r for r in records if (r["dense"], r["start"]) == (dense, how["starts"][-1]))
    return float(found["top1"])


def keep(rows: list[dict[str, Any]]) -> None:
    columns = [
        Column("way", f"Then (dense: {summary(rows, 'dense', 1.0)})"),
        *(Column(f"{left:.0%}", f"{100 * left:.0f} % of the weights left") for left in LEFT),
    ]
    lines = [{"way": way, **{f"{left:.0%}": summary(rows, way, left) for left in LEFT}} for way in WAYS]
    record(
        NAME,
        {"rows": rows},
        table=Table(columns, lines),
        command="python benchmarks/rewinding.py --runs FOLDER",
        data=f"CIFAR-10, {IMAGES:,} class-balanced training and 10,000 test images",
        settings=SETTINGS,
    )


def summary(rows: list[dict[str, Any]], way: str, left: float) -> str | None:
    """Write mean and standard deviation of top-1 over the seeds."""
    found = [100 * row["top1"] for row in rows if (row["way"], row["left"]) == (way, left)]
    if not found:
        return None
    return f"{fmean(found):.2f}{f' ± {stdev(found):.2f}' if len(found) > 1 else ''} % ({len(found)})"


if __name__ == "__main__":
    main()
