"""ResNets on CIFAR-10 made smaller without a training epoch: what each compensation leaves of the accuracy.

Takes the public checkpoints resnet20-12fca82f.th and resnet56-4bfd9763.th (91.73 and 93.39 % on the 10,000 test
images), expected in DATA_ROOT/weights/cifar10. Every way of making up for the cut sees the same calibration images of
the training set; dropping with correction sees them too. Each cell is recorded as it comes, and a repeated call
continues.

    python benchmarks/compensation.py --data-root DIR [--model resnet20] [--threads 2] [--criteria refit magnitude]
    python benchmarks/compensation.py --data-root DIR --model resnet56 --criteria refit --ways "reconstructed, 4,096"
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import torch

from harness import CHECKPOINTS, blank, earlier_rows, has, parser, record, trained
from secateur import Calibration, evaluate, prune
from secateur.core.tables import PERCENT, Column, Table
from secateur.data import Batches

LOSS: dict[str, Any] = {"reduction": "sum", "normalization": "none"}
CRITERIA: dict[str, dict[str, Any]] = {
    "refit": {"normalization": "none", "per_cost": True},
    "magnitude": {},
    "taylor": LOSS,
    "lamp": {},
    "chip": {},
    "random": {},
}
BUDGETS = (0.75, 0.6, 0.5, 0.384)
FIRST, MORE, MOST = 512, 2048, 4096
"""Calibration images."""
WAYS: dict[str, tuple[int, dict[str, Any]]] = {
    "dropped": (FIRST, {"compensation": "drop", "correct": False}),
    "dropped, corrected": (FIRST, {"compensation": "drop"}),
    "fused, corrected": (FIRST, {"compensation": "fuse"}),
    f"reconstructed, {FIRST}": (FIRST, {"compensation": "reconstruct"}),
    f"reconstructed, {MORE:,}": (MORE, {"compensation": "reconstruct"}),
    f"reconstructed, {MOST:,}": (MOST, {"compensation": "reconstruct"}),
}
USUAL = list(WAYS)[:-1]
"""What is measured unless ways are named."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=list(CHECKPOINTS), default="resnet20")
    options.add_argument("--criteria", nargs="+", choices=list(CRITERIA), default=list(CRITERIA))
    options.add_argument("--ways", nargs="+", choices=list(WAYS), default=USUAL)
    options.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    given = options.parse_args()
    torch.set_num_threads(given.threads or 1)
    name = f"compensation_{given.model}"
    model, data = trained(given.model, given.data_root)
    calibration = {
        count: Calibration(
            [
                (batch[0], batch[1])
                for batch in islice(Batches(data, "train", 128, shuffle=True, seed=0), count // 128)
            ]
        )
        for count in sorted({WAYS[way][0] for way in given.ways})
    }
    rows = earlier_rows(name)
    for criterion in given.criteria:
        for budget in given.budgets:
            for way in given.ways:
                if has(rows, criterion=criterion, budget=budget, way=way):
                    continue
                count, how = WAYS[way]
                start = time.perf_counter()
                cut = prune(
                    model,
                    blank(data),
                    granularity="channel",
                    criterion=criterion,
                    scope="global",
                    budget={"macs": budget},
                    data=calibration[count],
                    **CRITERIA[criterion],
                    **how,
                )
                seconds = time.perf_counter() - start
                assert cut.macs is not None
                rows.append(
                    {
                        "criterion": criterion,
                        "budget": budget,
                        "way": way,
                        "macs": cut.macs[1] / cut.macs[0],
                        "top1": evaluate(cut.model, data)["top1"],
                        "seconds": seconds,
                    }
                )
                print(rows[-1], flush=True)
                keep(name, rows, data.fingerprint())


def keep(name: str, rows: list[dict[str, Any]], fingerprint: str) -> None:
    columns = [Column("criterion", "Criterion"), Column("budget", "MACs left", PERCENT)]
    columns += [Column(way, way, PERCENT) for way in WAYS if has(rows, way=way)]
    table = []
    for criterion, budget in dict.fromkeys((row["criterion"], row["budget"]) for row in rows):
        own = [row for row in rows if (row["criterion"], row["budget"]) == (criterion, budget)]
        table.append({"criterion": criterion, "budget": budget, **{row["way"]: row["top1"] for row in own}})
    table.sort(key=lambda row: (-row["budget"], list(CRITERIA).index(row["criterion"])))
    record(
        name,
        {"rows": rows},
        table=Table(columns, table),
        command=f"python benchmarks/compensation.py --model {name.removeprefix('compensation_')}",
        data="CIFAR-10, all 10,000 test images, calibrated on training images",
        fingerprint=fingerprint,
        settings={"criteria": CRITERIA, "ways": {way: [count, how] for way, (count, how) in WAYS.items()}},
    )


if __name__ == "__main__":
    main()
