"""ResNet-56 on CIFAR-10 under global weight pruning: magnitude against random, as cut and after one epoch.

Takes the public checkpoint resnet56-4bfd9763.th (ImageNet normalisation; 93.39 % on the 10,000 test images),
expected in DATA_ROOT/weights/cifar10. Each result is recorded as it comes, and a repeated call continues.

    python benchmarks/resnet56_sparsity.py --data-root DIR [--threads 2]
"""

from __future__ import annotations

from typing import Any

import torch

from harness import earlier_rows, has, parser, record, trained
from secateur import evaluate, prune, train
from secateur.core.tables import PERCENT, Column, Table

NAME = "resnet56_sparsity"
AMOUNTS = (0.5, 0.7, 0.8, 0.9, 0.95)
RETRAIN: dict[str, Any] = {
    "epochs": 1,
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
    for amount in AMOUNTS:
        for criterion in ("magnitude", "random"):
            if has(rows, criterion=criterion, sparsity=amount):
                continue
            cut = prune(model, amount=amount, criterion=criterion, scope="global", seed=0)
            as_cut = evaluate(cut.model, data)
            fitted = train(cut.model, data, masks=cut.masks, **RETRAIN)
            rows.append(
                {
                    "criterion": criterion,
                    "sparsity": amount,
                    "as_cut": as_cut["top1"],
                    "retrained": fitted.rows[-1]["top1"],
                    "loss": fitted.rows[-1]["loss"],
                    "seconds": fitted.seconds,
                }
            )
            keep(rows, dense, data.fingerprint())


def keep(rows: list[dict[str, Any]], dense: dict[str, float], fingerprint: str) -> None:
    lines = []
    for amount in AMOUNTS:
        line: dict[str, Any] = {"sparsity": amount}
        for row in rows:
            if row["sparsity"] == amount:
                line[f"{row['criterion']}_as_cut"] = row["as_cut"]
                line[f"{row['criterion']}_retrained"] = row["retrained"]
        lines.append(line)
    columns = [Column("sparsity", "Sparsity", PERCENT)] + [
        Column(f"{criterion}_{stage}", f"{criterion}, {stage.replace('_', ' ')}", PERCENT)
        for criterion in ("magnitude", "random")
        for stage in ("as_cut", "retrained")
    ]
    record(
        NAME,
        {"dense": dense, "rows": rows},
        table=Table(columns, lines),
        command="python benchmarks/resnet56_sparsity.py",
        data="CIFAR-10, all 50,000 training and 10,000 test images",
        fingerprint=fingerprint,
        settings=RETRAIN,
    )


if __name__ == "__main__":
    main()
