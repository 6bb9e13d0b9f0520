"""Tickets of channels: LeNet-5 on part of Fashion-MNIST, 40 % of its channels a round, by five starts.

Three dense trainings lose channels by mean magnitude, ranked over all layers, four times. What is left goes back to
the first weights (weights), goes on with the weights as trained under the whole schedule (lr) or under its last
learning rate (none), or is drawn anew: for the same epochs (reinit) or for as many MACs as the dense training
(scratch_b). Every level is a run folder below --runs, so that a repeated call continues. The chart is
docs/images/lottery_units.svg.

    python benchmarks/lottery_units.py --data-root DIR --runs FOLDER [--threads 1]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness import parser, record
from secateur.core.tables import Table
from secateur.report.charts import save, tickets
from secateur.steps import Lottery, Train
from secateur.steps.lottery_records import points, table

NAME, SEEDS = "lottery_units", (0, 1, 2)
STARTS = ("weights", "lr", "none", "reinit", "scratch_b")
TRAIN: dict[str, Any] = {
    "model": "lenet5",
    "data": "fashion-mnist",
    "train_subset": 6000,
    "epochs": 10,
    "batch_size": 60,
    "lr": 0.05,
    "schedule": "multistep",
    "milestones": (5, 8),
    "evaluate_every": "1ep",
    "checkpoint_every": "10ep",
}
CUT: dict[str, Any] = {"granularity": "channel", "rate": 0.4, "levels": 4}
PICTURE = Path(__file__).parent.parent / "docs/images" / NAME


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", required=True, help="folder of the run folders")
    given = options.parse_args()
    torch.set_num_threads(given.threads or 1)
    root = Path(given.runs)
    for seed in SEEDS:
        Train(seed=seed, out=f"dense-{seed}", **TRAIN)(root, data_root=given.data_root)
        runs = tuple(f"dense-{each}" for each in SEEDS if each <= seed)
        records = Lottery(runs=runs, starts=STARTS, out="levels", **CUT)(
            root, data_root=given.data_root
        ).record
        shown = table(records)
        record(
            NAME,
            {"rows": records},
            table=Table([column for column in shown.columns if "early_stop" not in column.key], shown.rows),
            command="python benchmarks/lottery_units.py --runs FOLDER",
            data="fashion-mnist, 6,000 of 60,000 training and 10,000 test images",
            settings={"train": TRAIN, "cut": CUT, "seeds": SEEDS},
        )
        save(tickets(points(records, "top1"), what="channels"), PICTURE, ["svg"])


if __name__ == "__main__":
    main()
