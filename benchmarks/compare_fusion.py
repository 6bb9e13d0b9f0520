"""One group of ResNet-20 at a time made smaller on CIFAR-10: dropped, fused or reconstructed, without training.

Takes the public checkpoint resnet20-12fca82f.th (ImageNet normalisation), expected in DATA_ROOT/weights/cifar10.
Groups are counted from the output. Accuracy is that on the 10,000 test images; only the reconstruction looks at
other data, 512 training images. Cells are kept in --out, so that an interrupted run goes on.

    python benchmarks/compare_fusion.py --data-root DIR [--out DIR] [--threads 1]
"""

from __future__ import annotations

from pathlib import Path

import torch

from harness import parser, record
from secateur.core.tables import Table
from secateur.steps import CompareFusion

NAME = "compare_fusion"
GROUPS, SPARSITIES = (0, 3, 6), (0.3, 0.5, 0.7)
SHOWN = ("group", "sparsity", "default_pruning", "intra_fusion", "reconstruction", "parameters", "macs")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--out", default="build/compare_fusion", help="folder of the cells")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads or 1)
    outcome = CompareFusion(
        model="resnet20",
        weights=str(Path(given.data_root) / "weights/cifar10/resnet20-12fca82f.th"),
        data="cifar10",
        normalize="imagenet",
        data_root=given.data_root,
        groups=GROUPS,
        sparsities=SPARSITIES,
        reconstruct=True,
        out=given.out,
    )()
    assert outcome.table is not None
    columns = [column for column in outcome.table.columns if column.key in SHOWN]
    whole = outcome.record[0]["original_model"]
    record(
        NAME,
        {"original_model": whole, "rows": outcome.table.rows},
        table=Table(columns, outcome.table.rows),
        command="python benchmarks/compare_fusion.py",
        data="cifar10",
        calibration=outcome.record[0]["calibration"],
    )


if __name__ == "__main__":
    main()
