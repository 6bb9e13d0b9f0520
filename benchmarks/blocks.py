"""Blocks of weights zeroed together, beside single weights, without training: ResNet-20 on CIFAR-10.

From the public checkpoint resnet20-12fca82f.th in DATA_ROOT/weights/cifar10 (ImageNet normalisation): accuracy on
2,000 test images, class-balanced, with 30 % of the blocks of every layer gone, dropped and reconstructed on 256
training images, by each criterion and for several sizes of blocks.

    python benchmarks/blocks.py --data-root DIR [--threads 1]
"""

from __future__ import annotations

from typing import Any

import torch

from harness import parser, record, trained
from secateur import evaluate, prune
from secateur.core.tables import PERCENT, Column, Table

NAME = "blocks"
COMMAND = f"python benchmarks/{NAME}.py"
AMOUNT = 0.3
GRANULARITIES = ("weight", "block:4x4", "block:16x16")
CRITERIA = ("magnitude", "wanda", "obs", "random")
WAYS: dict[str, dict[str, Any]] = {"dropped": {}, "reconstructed": {"compensation": "reconstruct"}}


def main() -> None:
    given = parser(__doc__).parse_args()
    torch.set_num_threads(given.threads or 1)
    model, data = trained("resnet20", given.data_root)
    data = data.subset(train=256, test=2000, seed=0)
    chosen = data.train
    batches = [(data.normalised(chosen.inputs), chosen.labels)]
    dense, rows = evaluate(model, data)["top1"], []
    for granularity in GRANULARITIES:
        for criterion in CRITERIA:
            row: dict[str, Any] = {"granularity": granularity, "criterion": criterion}
            for way, asked in WAYS.items():
                how = {"granularity": granularity, "criterion": criterion, "scope": "local", **asked}
                row[way] = evaluate(prune(model, amount=AMOUNT, data=batches, **how).model, data)["top1"]
            rows.append(row)
            print(row, flush=True)
    columns = [
        Column("granularity", "Granularity"),
        Column("criterion", f"Criterion (dense: {dense:.2%})"),
        Column("dropped", "Dropped", PERCENT),
        Column("reconstructed", "Reconstructed", PERCENT),
    ]
    record(
        NAME,
        {"dense": dense, "rows": rows},
        table=Table(columns, rows),
        command=COMMAND,
        seed=0,
        amount=AMOUNT,
        fingerprint=data.fingerprint(),
    )


if __name__ == "__main__":
    main()
