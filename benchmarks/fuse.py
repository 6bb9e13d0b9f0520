"""ResNet-20 on CIFAR-10 made smaller by dropping channels and by fusing them, without training.

Takes the public checkpoint resnet20-12fca82f.th (ImageNet normalisation), expected in DATA_ROOT/weights/cifar10.
Channels of the lowest magnitude go: from all groups at once until the MACs meet a budget, and from the widest group
inside a block alone. Accuracy is that on the 10,000 test images; nothing else of the data is used.

    python benchmarks/fuse.py --data-root DIR [--threads 1]
"""

from __future__ import annotations

from typing import Any

import torch

from harness import blank, parser, record, trained
from secateur import evaluate, prune
from secateur.core.tables import PERCENT, Column, Table

NAME = "fuse"
CUTS: dict[str, dict[str, Any]] = {
    **{
        f"all groups, {100 * budget:.0f} % of the MACs left": {"budget": {"macs": budget}}
        for budget in (0.9, 0.75, 0.6, 0.5)
    },
    **{
        f"one group of 64, {100 * amount:.0f} % of it cut": {
            "amount": amount,
            "layers": ["layer3.0.bn1.weight"],
        }
        for amount in (0.4, 0.6)
    },
}
WAYS: dict[str, dict[str, Any]] = {
    "dropped": {},
    "fused": {"compensation": "fuse"},
    "energy": {"compensation": "fuse", "normalisation": "energy_preserving"},
    "reference": {"compensation": "fuse", "normalisation": "reference"},
    "importance": {"compensation": "fuse", "source": "importance", "target_mass": "importance"},
}


COLUMNS = [
    Column("cut", "Cut"),
    Column("dropped", "Dropped", PERCENT),
    Column("fused", "Fused", PERCENT),
    Column("energy", "Fused, `energy_preserving`", PERCENT),
    Column("reference", "Fused, `reference`", PERCENT),
    Column("importance", "Fused, masses by importance", PERCENT),
]


def main() -> None:
    given = parser(__doc__).parse_args()
    torch.set_num_threads(given.threads or 1)
    model, data = trained("resnet20", given.data_root)
    images, rows = blank(data), []
    for cut, asked in CUTS.items():
        row: dict[str, Any] = {"cut": cut}
        for way, own in WAYS.items():
            small = prune(model, images, granularity="channel", **asked, **own).model
            row[way] = evaluate(small, data)["top1"]
        rows.append(row)
        record(
            NAME,
            {"rows": rows},
            table=Table(COLUMNS, rows),
            command="python benchmarks/fuse.py",
            data="cifar10",
        )


if __name__ == "__main__":
    main()
