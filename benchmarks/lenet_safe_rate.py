"""LeNet-5 on MNIST: accuracy, safe pruning rate, and what the cut at p* and at the safe rate costs; three seeds.

25 epochs, batch 256, then a global magnitude cut over all parameters (as the rate is defined), measured as cut and
after one epoch of SGD at 1e-3 with momentum 0.9. The published run (Mason-Williams & Dahlqvist, ICLR 2024): 97.49 %
dense, p* 0.83, κ² 2.49, safe rate 0.632; at the safe rate 86.9 % as cut and 97.2 % after one epoch.

    python benchmarks/lenet_safe_rate.py --data-root DIR [--threads 2]
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from harness import parser, record
from secateur import build, evaluate, load_data, prune, safe_rate, train
from secateur.core.seeds import seed_of
from secateur.core.tables import NUMBER, PERCENT, Column, Table

SEEDS = (0, 1, 2)
TRAIN: dict[str, Any] = {"epochs": 25, "batch_size": 256, "augment": "none"}
RETRAIN: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 256,
    "lr": 1e-3,
    "momentum": 0.9,
    "schedule": "constant",
    "weight_decay": 0.0,
}
PUBLISHED = {
    "seed": "published",
    "dense": 0.9749,
    "optimum": 0.83,
    "kurtosis_of_kurtoses": 2.49,
    "safe": 0.632,
    "safe_as_cut": 0.869,
    "safe_retrained": 0.972,
}


def main() -> None:
    given = parser(__doc__).parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    data = load_data("mnist", given.data_root)
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        torch.manual_seed(seed_of("init", seed))
        model = build("lenet5", num_classes=10, input_shape=data.input_shape)
        fitted = train(model, data, seed=seed, **TRAIN)
        found = safe_rate(model)
        row: dict[str, Any] = {
            "seed": str(seed),
            "dense": fitted.rows[-1]["top1"],
            "optimum": found.optimum,
            "kurtosis_of_kurtoses": found.kurtosis_of_kurtoses,
            "safe": found.safe,
            "notes": list(found.notes),
        }
        for name, amount in (("optimum", found.optimum), ("safe", found.safe)):
            cut = prune(model, amount=amount, include="all", allow_empty=True)
            row[f"{name}_as_cut"] = evaluate(cut.model, data)["top1"]
            row[f"{name}_retrained"] = train(
                cut.model, data, masks=cut.masks, seed=seed, augment="none", **RETRAIN
            ).rows[-1]["top1"]
        rows.append(row)
    keys = [key for key in rows[0] if key not in ("seed", "notes")]
    mean = {"seed": "mean", **{key: statistics.fmean(row[key] for row in rows) for key in keys}}
    spread = {
        "seed": "spread (max − min)",
        **{key: max(r[key] for r in rows) - min(r[key] for r in rows) for key in keys},
    }
    columns = [
        Column("seed", "Seed"),
        Column("dense", "Dense", PERCENT),
        Column("optimum", "p*", NUMBER),
        Column("kurtosis_of_kurtoses", "κ²", NUMBER),
        Column("safe", "Safe rate", NUMBER),
        Column("optimum_as_cut", "At p*, as cut", PERCENT),
        Column("optimum_retrained", "At p*, one epoch", PERCENT),
        Column("safe_as_cut", "At safe rate, as cut", PERCENT),
        Column("safe_retrained", "At safe rate, one epoch", PERCENT),
    ]
    record(
        "lenet_safe_rate",
        {"rows": rows, "mean": mean, "spread": spread},
        table=Table(columns, [*rows, mean, spread, PUBLISHED]),
        command="python benchmarks/lenet_safe_rate.py",
        data="MNIST, all 60,000 training and 10,000 test images",
        fingerprint=data.fingerprint(),
        settings={"train": TRAIN, "retrain": RETRAIN},
        seeds=list(SEEDS),
    )


if __name__ == "__main__":
    main()
