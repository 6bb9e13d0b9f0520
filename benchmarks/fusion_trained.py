"""VGG-11-BN and ResNet-18 trained here on CIFAR-10, then cut: dropped, fused or reconstructed; and retrained.

The schedule is short: EPOCHS passes over IMAGES training images. Then, first, one group at a time, counted from the
output, loses channels of the lowest unfolded l1 norm, otherwise as in the experiment published with Intra-Fusion
(Theus et al. 2024), which trained for 300 epochs on all images; the charts are docs/images/fusion-MODEL.svg. Second,
every group loses half of its channels, and the model is trained on. Only the reconstruction looks at data, 512 training
images. An interrupted run goes on where it was.

    python benchmarks/fusion_trained.py --data-root DIR [--model vgg11_bn] [--out DIR] [--threads 1]
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from harness import parser, record
from secateur.core.tables import PERCENT, Column, Table
from secateur.steps import CompareFusion, Prune, Retrain, Train
from secateur.steps.fusion_records import draw

EPOCHS, IMAGES, TESTED = 20, 10_000, 2_000
TRAIN: dict[str, Any] = {
    "batch_size": 128,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "precision": "bf16-mixed",
}
GROUPS, SPARSITIES = {"vgg11_bn": (1, 3, 5, 6), "resnet18": (1, 3, 5, 6)}, (0.3, 0.4, 0.5, 0.6, 0.7)
WAYS = {"dropped": "drop", "fused": "fuse", "reconstructed": "reconstruct"}
SHOWN = ("group", "sparsity", "default_pruning", "intra_fusion", "reconstruction", "parameters", "macs")
PICTURES = Path(__file__).parent.parent / "docs/images"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=list(GROUPS), default="vgg11_bn")
    options.add_argument("--out", default="build/fusion_trained", help="folder of runs and cells")
    given = options.parse_args()
    torch.set_num_threads(given.threads or 1)
    folder = Path(given.out) / given.model
    dense = Train(
        model=given.model,
        data="cifar10",
        data_root=given.data_root,
        train_subset=IMAGES,
        epochs=EPOCHS,
        lr=0.05,
        warmup="1ep",
        out=str(folder / "dense"),
        **TRAIN,
    )
    print(*dense().lines, sep="\n", flush=True)
    facts = {
        "data": f"CIFAR-10, {IMAGES:,} training images, {EPOCHS} epochs",
        "settings": {**TRAIN, "lr": 0.05, "tested": TESTED},
    }
    groups(given, folder, facts)
    retrained(given, folder, facts)


def groups(given: Any, folder: Path, facts: dict[str, Any]) -> None:
    """One group at a time, as cut."""
    outcome = CompareFusion(
        run=str(folder / "dense"),
        data_root=given.data_root,
        groups=GROUPS[given.model],
        sparsities=SPARSITIES,
        criterion="unfolded_l1",
        reconstruct=True,
        test_samples=TESTED,
        out=str(folder / "groups"),
    )()
    assert outcome.table is not None
    picture = draw(outcome.record, folder / "charts")[0]
    shutil.copy(picture, PICTURES / f"fusion-{given.model}.svg")
    columns = [column for column in outcome.table.columns if column.key in SHOWN]
    record(
        f"fusion_{given.model}",
        {"original_model": outcome.record[0]["original_model"], "rows": outcome.table.rows},
        table=Table(columns, outcome.table.rows),
        command=f"python benchmarks/fusion_trained.py --model {given.model}",
        calibration=outcome.record[0]["calibration"],
        **facts,
    )


def retrained(given: Any, folder: Path, facts: dict[str, Any]) -> None:
    """Half of every group, as cut and after training on; all 10,000 test images."""
    rows = []
    for way, compensation in WAYS.items():
        out = str(folder / compensation)
        cut = Prune(  # type: ignore[call-arg]
            run=str(folder / "dense"),
            data_root=given.data_root,
            granularity="channel",
            scope="local",
            amount=0.5,
            compensation=compensation,
            correct=compensation == "reconstruct",
            calibration=512,
            evaluate=True,
            out=out,
        )().record
        fitted = Retrain(run=out, data_root=given.data_root, epochs=1, lr=0.01, **TRAIN)().record
        rows.append({"way": way, "as_cut": cut["top1"], "retrained": fitted["top1"], "macs": cut["macs"]})
        print(rows[-1], flush=True)
    columns = [
        Column("way", "Half of every group"),
        Column("as_cut", "Top-1 as cut", PERCENT),
        Column("retrained", "after one epoch", PERCENT),
    ]
    record(
        f"fusion_retrained_{given.model}",
        {"rows": rows},
        table=Table(columns, rows),
        command=f"python benchmarks/fusion_trained.py --model {given.model}",
        **facts,
    )


if __name__ == "__main__":
    main()
