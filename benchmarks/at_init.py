"""Pruning before training: top-1 after training what SynFlow, SNIP, GraSP, magnitude and random leave, three seeds.

A fresh network loses all but 1/10, 1/100 and 1/1000 of its weights and is then trained. Layers may lose all their
weights, as in the papers; "none empty" is the same cut with the toolkit's default, by which every layer keeps its
best weight. Each result is recorded as it comes, and a repeated call continues.

    python benchmarks/at_init.py --data-root DIR [--threads 1]
    python benchmarks/at_init.py --model lenet5 --epochs 3 --data-root DIR
    python benchmarks/at_init.py --model resnet20 --data cifar10 --limit 5000 --test-limit 2000 --data-root DIR
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from harness import earlier_rows, has, parser, record
from secateur import build, load_data, prune, train
from secateur.core.seeds import seed_of
from secateur.core.tables import Column, Table
from secateur.criteria import balanced
from secateur.data import Dataset

COMPRESSIONS = (10, 100, 1000)
METHODS: dict[str, dict[str, Any]] = {
    "synflow": {"criterion": "synflow"},
    "snip": {"criterion": "snip"},
    "grasp": {"criterion": "grasp"},
    "magnitude": {"criterion": "magnitude"},
    "magnitude, none empty": {"criterion": "magnitude", "allow_empty": False},
    "random": {"criterion": "random"},
    "random, erk": {"criterion": "random", "scope": "erk"},
}
SMALL = {"batch_size": 128, "momentum": 0.9, "weight_decay": 0.0, "schedule": "cosine", "augment": "none"}
TRAIN: dict[str, dict[str, Any]] = {
    "lenet300": {"lr": 0.1, **SMALL},
    "lenet5": {"lr": 0.05, **SMALL},
    "resnet20": {
        "lr": 0.1, "batch_size": 128, "momentum": 0.9, "weight_decay": 1e-4, "schedule": "cosine",
        "precision": "bf16-mixed",
    },
}  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", default="lenet300", choices=sorted(TRAIN))
    options.add_argument("--data", default="mnist")
    options.add_argument("--limit", type=int, default=None, help="training images, class-balanced")
    options.add_argument("--test-limit", type=int, default=None, help="test images, class-balanced")
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--seeds", type=int, default=3)
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    data = load_data(given.data, given.data_root, subset=(given.limit, given.test_limit))
    name = f"at_init_{given.model}"
    settings = {**TRAIN[given.model], "epochs": given.epochs}
    rows = earlier_rows(name)
    cells = [("dense", 1)] + [(method, ratio) for ratio in COMPRESSIONS for method in METHODS]
    for seed in range(given.seeds):
        for method, ratio in cells:
            if not has(rows, method=method, compression=ratio, seed=seed):
                rows.append(cell(given.model, data, method, ratio, seed, settings))
                keep(name, rows, data, settings, given)
    keep(name, rows, data, settings, given)


def cell(
    name: str, data: Dataset, method: str, compression: int, seed: int, settings: dict[str, Any]
) -> dict[str, Any]:
    torch.manual_seed(seed_of("init", seed))
    model = build(name, num_classes=data.num_classes, input_shape=data.input_shape)
    masks, empty = None, 0
    if method != "dense":
        choices = {"allow_empty": True, "scope": "global", **METHODS[method]}
        cut = prune(
            model,
            data.example(1),
            amount=1 - 1 / compression,
            data=balanced(data, seed=seed),
            seed=seed,
            inplace=True,
            **choices,
        )
        masks, empty = cut.masks, sum(not bool(mask.any()) for mask in cut.masks.values())
    fitted = train(model, data, masks=masks, seed=seed, **settings)
    return {
        "method": method,
        "compression": compression,
        "seed": seed,
        "top1": fitted.rows[-1]["top1"],
        "empty": empty,
        "seconds": fitted.seconds,
    }


def keep(name: str, rows: list[dict[str, Any]], data: Dataset, settings: dict[str, Any], given: Any) -> None:
    lines = []
    for method in METHODS:
        line: dict[str, Any] = {"method": method}
        for ratio in COMPRESSIONS:
            found = [row for row in rows if (row["method"], row["compression"]) == (method, ratio)]
            line[str(ratio)] = summary(found)
        lines.append(line)
    dense = summary([row for row in rows if row["method"] == "dense"])
    columns = [
        Column("method", f"Left by (dense: {dense})"),
        *(Column(str(ratio), f"1/{ratio} of the weights") for ratio in COMPRESSIONS),
    ]
    images = f"{len(data.train):,} training and {len(data.test):,} test images"
    limit = f" --limit {given.limit}" if given.limit else ""
    limit += f" --test-limit {given.test_limit}" if given.test_limit else ""
    record(
        name,
        {"rows": rows},
        table=Table(columns, lines),
        command=f"python benchmarks/at_init.py --model {given.model} --data {given.data}{limit} "
        f"--epochs {given.epochs}",
        data=f"{given.data}, {images}; scored on 10 training images a class",
        fingerprint=data.fingerprint(),
        settings=settings,
        seeds=sorted({row["seed"] for row in rows}),
    )


def summary(rows: list[dict[str, Any]]) -> str | None:
    """Write mean and range of top-1, and in how many of the runs a layer lost all its weights."""
    if not rows:
        return None
    values = [100 * row["top1"] for row in rows]
    dead = sum(row["empty"] > 0 for row in rows)
    text = f"{statistics.fmean(values):.2f} %"
    if len(values) > 1:
        text += f" ({min(values):.2f}–{max(values):.2f})"
    return f"{text}, {dead} of {len(rows)} with an empty layer" if dead else text


if __name__ == "__main__":
    main()
