"""ResNet-56 on CIFAR-10 cut to half of its multiplications by every criterion of units: as cut, and after one epoch.

Takes the public checkpoint resnet56-4bfd9763.th (93.39 % on the 10,000 test images), expected in
DATA_ROOT/weights/cifar10. Channels of every coupled group go, residual stream included. Criteria that estimate the
change of the loss are summed over a unit and compared as they are; all others are compared as multiples of their
group's mean. A seed chooses the calibration images, what is random, and the order of retraining. Each cell is recorded
as it comes, and a repeated call continues.

    python benchmarks/structured_criteria.py --data-root DIR [--threads 2] [--seeds 3] [--train-images 10000]
"""

from __future__ import annotations

from itertools import islice
from statistics import mean, stdev
from typing import Any

import torch

from harness import blank, earlier_rows, has, parser, record, trained
from secateur import CRITERIA, evaluate, prune, train
from secateur.core.tables import Column, Table
from secateur.data import Batches

NAME = "structured_criteria"
LOSS: dict[str, Any] = {"reduction": "sum", "normalization": "none"}
HOW: dict[str, dict[str, Any]] = {
    "magnitude": {}, "linf": {}, "lamp": {}, "fpgm": {}, "bn_scale": {}, "activation": {}, "apoz": {}, "hrank": {},
    "chip": {}, "taylor": LOSS, "joint_taylor": LOSS, "fisher": LOSS, "obd": LOSS, "random": {},
    "refit": {"normalization": "none", "per_cost": True},
}  # fmt: skip
CALIBRATION = 4
"""Batches of 128 training images."""
RETRAIN: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 128,
    "lr": 0.01,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "precision": "bf16-mixed",
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--train-images", type=int, default=10_000)
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    model, data = trained("resnet56", given.data_root)
    few = data.subset(train=given.train_images, seed=0)
    rows = earlier_rows(NAME)
    for seed in range(given.seeds):
        for criterion, how in HOW.items():
            if has(rows, criterion=criterion, seed=seed):
                continue
            batches = islice(Batches(data, "train", 128, shuffle=True, seed=seed), CALIBRATION)
            cut = prune(
                model,
                blank(data),
                granularity="channel",
                criterion=criterion,
                scope="global",
                budget={"macs": 0.5},
                data=[(batch[0], batch[1]) for batch in batches] if CRITERIA[criterion].needs_data else None,
                correct=False,
                seed=seed,
                **how,
            )
            assert cut.macs is not None
            assert cut.parameters is not None
            as_cut = evaluate(cut.model, data)["top1"]
            fitted = train(cut.model, few, **RETRAIN, seed=seed)
            rows.append(
                {
                    "criterion": criterion,
                    "seed": seed,
                    "macs": cut.macs[1] / cut.macs[0],
                    "parameters": cut.parameters[1] / cut.parameters[0],
                    "as_cut": as_cut,
                    "retrained": fitted.rows[-1]["top1"],
                }
            )
            print(rows[-1], flush=True)
            keep(rows, data.fingerprint(), given.train_images)


def keep(rows: list[dict[str, Any]], fingerprint: str, images: int) -> None:
    columns = [
        Column("criterion", "Criterion"),
        Column("seeds", "Seeds"),
        Column("parameters", "Parameters left"),
        Column("as_cut", "Top-1 as cut"),
        Column("retrained", f"after one epoch of {images:,} images"),
    ]
    table = []
    for criterion in dict.fromkeys(row["criterion"] for row in rows):
        own = [row for row in rows if row["criterion"] == criterion]
        numbers = {key: spread([row[key] for row in own]) for key in ("parameters", "as_cut", "retrained")}
        table.append({"criterion": criterion, "seeds": len(own), **numbers})
    record(
        NAME,
        {"rows": rows},
        table=Table(columns, sorted(table, key=lambda row: row["retrained"], reverse=True)),
        command="python benchmarks/structured_criteria.py",
        data=f"CIFAR-10, {images:,} training and all 10,000 test images",
        fingerprint=fingerprint,
        settings=RETRAIN,
    )


def spread(values: list[float]) -> str:
    """Mean ± standard deviation, in percent."""
    apart = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{apart} %"


if __name__ == "__main__":
    main()
