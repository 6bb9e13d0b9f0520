"""Network slimming on CIFAR-10: what training with a penalty on BatchNorm's scales changes about them, and about cuts.

A VGG-11 of half the width is trained without and with the penalty, from the same initialisation and in the same order;
then 50, 60 and 70 % of all channels are cut by the smallest scales, over all layers together, and the smaller network
is retrained. Results are recorded as they come, and a repeated call continues.

    python benchmarks/slimming.py --data-root DIR [--train-subset 20000] [--threads 2] [--accelerator cuda]
"""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from harness import RESULTS, parser, record
from secateur import build, evaluate, load_data, prune, train
from secateur.seeds import seed_of
from secateur.tables import COUNT, PERCENT, Column, Format, Table

NAME = "slimming"
STRENGTHS = (0.0, 1e-3)
AMOUNTS = (0.5, 0.6, 0.7)
EDGES = (0.01, 0.03, 0.1, 0.3)
"""Ends of the histogram's bins: |γ| below 0.01, from 0.01 to 0.03, and so on, as parts of the largest."""
TRAIN = {"epochs": 20, "batch_size": 128, "lr": 0.1, "weight_decay": 1e-4, "warmup": "1ep", "seed": 0}
RETRAIN = {"epochs": 5, "batch_size": 128, "lr": 0.02, "weight_decay": 1e-4, "seed": 0}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--train-subset", type=int, default=None, help="train on so many images")
    options.add_argument("--accelerator", default="auto", help="where to train")
    options.add_argument("--precision", default="bf16-mixed", help="precision of training")
    options.add_argument("--epochs", type=int, default=TRAIN["epochs"], help="epochs of the first training")
    options.add_argument("--retrain-epochs", type=int, default=RETRAIN["epochs"], help="epochs after a cut")
    options.add_argument("--width", type=float, default=0.5, help="width of the VGG")
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    data = load_data("cifar10", given.data_root, subset=(given.train_subset, None))
    where = {"accelerator": given.accelerator, "precision": given.precision}
    settings: dict[str, Any] = {
        "width": given.width,
        "train": {**TRAIN, "epochs": given.epochs, **where},
        "retrain": {**RETRAIN, "epochs": given.retrain_epochs, **where},
        "images": len(data.train),
    }
    earlier = RESULTS / f"{NAME}.json"
    found = json.loads(earlier.read_text()) if earlier.exists() else {}
    rows: list[dict[str, Any]] = found["result"]["rows"] if found.get("settings") == settings else []

    def keep() -> None:
        scales = [Column(f"bin_{number}", label, COUNT) for number, label in enumerate(labels())]
        columns = [
            Column("strength", "λ", Format(lambda value: f"{value:g}")),
            Column("cut", "Channels cut", PERCENT),
            Column("parameters", "Parameters left", PERCENT),
            Column("macs", "MACs left", PERCENT),
            Column("as_cut", "Top-1 as cut", PERCENT),
            Column("retrained", "retrained", PERCENT),
            *scales,
        ]
        record(
            NAME,
            {"rows": rows},
            table=Table(columns, rows),
            command="python benchmarks/slimming.py",
            data=f"CIFAR-10, {len(data.train):,} training and {len(data.test):,} test images",
            fingerprint=data.fingerprint(),
            settings=settings,
        )

    for strength in STRENGTHS:
        missing = [
            amount for amount in (0.0, *AMOUNTS) if not any(
                row["strength"] == strength and row["cut"] == amount for row in rows
            )
        ]  # fmt: skip
        if not missing:
            continue
        torch.manual_seed(seed_of("init", 0))
        dense = build("vgg11_bn", num_classes=10, input_shape=data.input_shape, width=given.width)
        method = {"method": "slimming", "options": {"strength": strength}} if strength else {}
        train(dense, data, **settings["train"], **method)
        example = data.example(2)
        for amount in missing:
            if amount == 0:
                top1 = evaluate(dense, data)["top1"]
                rows.append(
                    {"strength": strength, "cut": 0.0, "parameters": 1.0, "macs": 1.0, "as_cut": top1}
                )
                rows[-1] |= histogram(dense)
                keep()
                continue
            cut = prune(
                copy.deepcopy(dense).cpu(),
                example,
                granularity="channel",
                criterion="bn_scale",
                scope="global",
                amount=amount,
            )
            assert cut.parameters is not None
            assert cut.macs is not None
            as_cut = evaluate(cut.model, data)["top1"]
            train(cut.model, data, **settings["retrain"])
            rows.append(
                {
                    "strength": strength,
                    "cut": amount,
                    "parameters": cut.parameters[1] / cut.parameters[0],
                    "macs": cut.macs[1] / cut.macs[0],
                    "as_cut": as_cut,
                    "retrained": evaluate(cut.model, data)["top1"],
                }
            )
            keep()


def scales(model: nn.Module) -> Tensor:
    """Return |γ| of all BatchNorm layers."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return torch.cat([norm.weight.detach().abs().cpu() for norm in norms])


def histogram(model: nn.Module) -> dict[str, int]:
    """Count the scales between `EDGES`, as parts of the largest."""
    parts = scales(model) / scales(model).max()
    places = torch.bucketize(parts, torch.tensor(EDGES))
    return {f"bin_{number}": int((places == number).sum()) for number in range(len(EDGES) + 1)}


def labels() -> list[str]:
    """Name the bins."""
    ends = ("0", *(f"{edge:g}" for edge in EDGES), "1")
    return [f"γ {low}–{high}" for low, high in pairwise(ends)]


if __name__ == "__main__":
    main()
