"""ResNet-56 on CIFAR-10 made smaller, residual stream included: accuracy as cut and after a few epochs.

Takes the public checkpoint resnet56-4bfd9763.th (ImageNet normalisation; 93.39 % on the 10,000 test images),
expected in DATA_ROOT/weights/cifar10. Channels of every coupled group go, also those of the residual stream with its
zero-padded shortcuts, until the MACs meet the budget. Each result is recorded as it comes, and a repeated call
continues.

    python benchmarks/resnet56_channels.py --data-root DIR [--threads 2]
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch

from harness import blank, earlier_rows, has, parser, record, trained
from secateur import evaluate, prune, train
from secateur.core.tables import PERCENT, Column, Table
from secateur.data import Batches

NAME = "resnet56_channels"
BUDGETS = (0.5, 0.75)
CRITERIA = ("magnitude", "taylor", "random")
CALIBRATION = 8
"""Batches of 128 training images for the gradients."""
RETRAIN: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 128,
    "lr": 0.01,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "precision": "bf16-mixed",
    "seed": 0,
}


def main() -> None:
    options = parser(__doc__)
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    model, data = trained("resnet56", given.data_root)
    rows = earlier_rows(NAME)
    dense = evaluate(model, data)
    images = blank(data)
    for budget in BUDGETS:
        for criterion in CRITERIA:
            if has(rows, criterion=criterion, budget=budget):
                continue
            batches = islice(Batches(data, "train", 128, shuffle=True, seed=0), CALIBRATION)
            calibration = [(batch[0], batch[1]) for batch in batches] if criterion == "taylor" else None
            cut = prune(
                model,
                images,
                granularity="channel",
                criterion=criterion,
                scope="global",
                budget={"macs": budget},
                data=calibration,
                correct=False,
                seed=0,
            )
            assert cut.macs is not None
            assert cut.parameters is not None
            assert cut.verification is not None
            as_cut = evaluate(cut.model, data)
            fitted = train(cut.model, data, **RETRAIN)
            rows.append(
                {
                    "budget": budget,
                    "criterion": criterion,
                    "macs": cut.macs[1] / cut.macs[0],
                    "parameters": cut.parameters[1] / cut.parameters[0],
                    "verification": cut.verification.error,
                    "as_cut": as_cut["top1"],
                    "epoch_1": fitted.rows[0]["top1"],
                    "epoch_3": fitted.rows[-1]["top1"],
                    "seconds": fitted.seconds,
                }
            )
            keep(rows, dense, data.fingerprint())


def keep(rows: list[dict[str, Any]], dense: dict[str, float], fingerprint: str) -> None:
    columns = [
        Column("budget", "MACs asked"),
        Column("criterion", "Criterion"),
        Column("macs", "MACs left", PERCENT),
        Column("parameters", "Parameters left", PERCENT),
        Column("as_cut", "Top-1 as cut", PERCENT),
        Column("epoch_1", "after epoch 1 of 3", PERCENT),
        Column("epoch_3", "after 3 epochs", PERCENT),
    ]
    ordered = sorted(rows, key=lambda row: (-row["budget"], CRITERIA.index(row["criterion"])))
    record(
        NAME,
        {"dense": dense, "rows": rows},
        table=Table(columns, ordered),
        command="python benchmarks/resnet56_channels.py",
        data="CIFAR-10, all 50,000 training and 10,000 test images",
        fingerprint=fingerprint,
        settings=RETRAIN,
    )


if __name__ == "__main__":
    main()
