"""Lottery tickets: LeNet-300-100 on MNIST, 20 % a round (10 % of the output layer) down to 2 % of the weights.

Three dense trainings, and beside the tickets (start weights) the same masks on new weights (reinit) and random
subnetworks (random). Adam at 1.2e-3 and batches of 60 are those of Frankle & Carbin 2019. Their trainings are of
50,000 iterations on all images; these are of 1,000 iterations on 6,000 class-balanced images, 10 epochs, in which the
dense network's test loss has its lowest point. Every level is a run folder below --runs, so that a repeated call
continues; results are recorded after every two levels. The charts are docs/images/lottery.svg and
lottery-early-stop.svg.

    python benchmarks/lottery.py --data-root DIR --runs FOLDER [--data fashion-mnist] [--threads 1]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness import parser, record
from secateur.report.charts import save, tickets
from secateur.runs.run import Run
from secateur.steps import Lottery, Train
from secateur.steps.lottery_records import points, table

LEVELS, SEEDS, STARTS = 17, (0, 1, 2), ("weights", "reinit", "random")
TRAIN: dict[str, Any] = {
    "train_subset": 6000,
    "epochs": 10,
    "batch_size": 60,
    "optimizer": "adam",
    "lr": 1.2e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "evaluate_every": "50it",
    "checkpoint_every": "10ep",
}
CUT: dict[str, Any] = {"rate": 0.2, "layer_rates": {"output": 0.5}, "scope": "local"}
PICTURE = Path(__file__).parent.parent / "docs/images/lottery"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", default="mnist", help="mnist or fashion-mnist")
    options.add_argument("--runs", required=True, help="folder of the run folders")
    options.add_argument("--levels", type=int, default=LEVELS, help="how many levels")
    given = options.parse_args()
    torch.set_num_threads(given.threads or 1)
    root, name = (
        Path(given.runs) / given.data,
        "lottery" if given.data == "mnist" else "lottery_fashion_mnist",
    )
    steps = [
        Train(model="lenet300", data=given.data, seed=seed, out=f"dense-{seed}", **TRAIN) for seed in SEEDS
    ]
    for step in steps:
        step(root, data_root=given.data_root)
    levels = [*range(1, given.levels, 2), given.levels]
    for level in levels:
        search = Lottery(
            runs=tuple(step.out for step in steps), levels=level, starts=STARTS, out="levels", **CUT
        )
        records = search(root, data_root=given.data_root).record
        seconds = sum(
            entry["seconds"] for entry in Run.open(root / f"levels/dense-0-weights-{level:02}").history[-2:]
        )
        keep(name, given.data, records, seconds)


def keep(name: str, data: str, records: list[dict[str, Any]], seconds: float) -> None:
    command = "python benchmarks/lottery.py --runs FOLDER"
    record(
        name,
        {"rows": records, "seconds of a level": round(seconds, 1)},
        table=table(records),
        command=command if data == "mnist" else f"{command} --data {data}",
        data=f"{data}, 6,000 of 60,000 training and 10,000 test images",
        settings={"train": TRAIN, "cut": CUT, "seeds": SEEDS},
    )
    save(tickets(points(records, "top1")), PICTURE.with_name(name), ["svg"])
    save(
        tickets(points(records, "early_stop"), "early_stop"), PICTURE.with_name(f"{name}-early-stop"), ["svg"]
    )


if __name__ == "__main__":
    main()
