"""ResNet-20 made smaller by channels and reconstructed on real images, on synthetic ones and on noise, no training.

Takes the public checkpoint resnet20-12fca82f.th (ImageNet normalisation), expected in DATA_ROOT/weights/cifar10.
Channels of the lowest magnitude go from all groups until the MACs meet a budget. With 512 training images, 512 made of
the model alone, or 512 of Gaussian noise, means and variances are corrected, or what reads the channels is fitted anew
as well. Accuracy is that on the 10,000 test images; the mismatch is what the synthetic images were made to bring down,
on the first 64.

    python benchmarks/data_free.py --data-root DIR [--threads 1]
"""

from __future__ import annotations

import time
from typing import Any

import torch

from harness import blank, parser, record, trained
from secateur import evaluate, prune, synthetic_inputs
from secateur.compensation.synthetic import mismatches
from secateur.core.tables import PERCENT, Column, Format, Table

NAME = "data_free"
SAMPLES = 512
BUDGETS = (0.75, 0.5)
NUMBER = Format(lambda value: f"{value:.0f}")


def main() -> None:
    given = parser(__doc__).parse_args()
    torch.set_num_threads(given.threads or 1)
    model, data = trained("resnet20", given.data_root)
    example = blank(data)
    real = data.subset(train=SAMPLES, seed=0).train
    start = time.perf_counter()
    made = synthetic_inputs(model, example, SAMPLES)
    seconds = time.perf_counter() - start
    sources: dict[str, list[Any] | None] = {
        "nothing": None,
        "Gaussian noise": synthetic_inputs(model, example, SAMPLES, steps=0),
        "synthetic images": made,
        "training images": [(data.normalised(real.inputs), None)],
    }
    rows = []
    for source, batches in sources.items():
        row: dict[str, Any] = {"source": source, "seconds": seconds if batches is made else None}
        if batches is not None:
            with torch.no_grad(), mismatches(model) as found:
                model(batches[0][0][:64])
            row["mismatch"] = float(torch.stack(found).sum())
        for budget in BUDGETS:
            for way in ("drop", "reconstruct"):
                if batches is None and way != "drop":
                    continue
                small = prune(
                    model,
                    example,
                    granularity="channel",
                    budget={"macs": budget},
                    compensation=way,
                    data=batches,
                ).model
                row[f"{way} {budget}"] = evaluate(small, data)["top1"]
        rows.append(row)
        columns = [
            Column("source", "Data"),
            Column("mismatch", "Mismatch", NUMBER),
            *(
                Column(f"{way} {budget}", f"{100 * budget:.0f} % of the MACs, {said}", PERCENT)
                for budget in BUDGETS
                for way, said in (("drop", "dropped"), ("reconstruct", "reconstructed"))
            ),
            Column("seconds", "Seconds to make", NUMBER),
        ]
        record(
            NAME,
            {"rows": rows},
            table=Table(columns, rows),
            command=f"python benchmarks/{NAME}.py",
            seed=0,
            data="cifar10",
        )


if __name__ == "__main__":
    main()
