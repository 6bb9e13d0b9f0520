"""Supermasks: what masks alone make of LeNet-300-100 on MNIST that was never trained (Zhou et al. 2019).

The networks begin as the paper's do, with Glorot's normal distribution and zero biases, and are trained for 2 epochs on
all 60,000 images: Adam, 1.2e-3, batches of 60. Masks follow from the first and the last weights, with the same amount
in each layer and half of it in the output layer. Beside them the same for 5 epochs, for torch's own initialisation, and
masks learned by the method supermask with rescale, 5 epochs of Adam on the scores alone. Three seeds, 10,000 test
images.

    python benchmarks/supermasks.py --data-root DIR --runs FOLDER [--threads 1]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import nn

from harness import parser, record
from secateur import build
from secateur.core.tables import Column, Table
from secateur.runs.run import Run
from secateur.steps import Supermask, Train

SEEDS = (0, 1, 2)
GLOROT = "supermasks:glorot"
TRAIN: dict[str, Any] = {
    "model": GLOROT, "data": "mnist", "epochs": 2, "batch_size": 60, "optimizer": "adam", "lr": 1.2e-3,
    "weight_decay": 0.0, "schedule": "constant", "snapshots": ("0it",), "checkpoint_every": "5ep",
}  # fmt: skip
LEARN: dict[str, Any] = {
    "method": "supermask", "options": {"rescale": True, "score_lr": 0.1}, "schedule": "cosine", "epochs": 5,
    "snapshots": (),
}  # fmt: skip
CRITERIA = (
    "large_final", "large_final_same_sign", "magnitude_increase", "magnitude_increase_same_sign", "movement",
    "movement_same_sign", "large_init_large_final", "large_init_large_final_same_sign", "large_init", "small_final",
    "random", "random_same_sign",
)  # fmt: skip
BEST = "large_final_same_sign"
KEPT = ("rewind", "reinit", "reinit_signed", "reshuffle", "reshuffle_signed", "constant")
AMOUNTS = (0.2, 0.5, 0.7, 0.8, 0.9)
QUESTIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{name: ("dense", {}, {"criteria": (name,)}) for name in CRITERIA},
    f"{BEST}, others frozen": ("dense", {}, {"criteria": (BEST,), "masked": ("frozen",)}),
    f"{BEST}, 5 epochs": ("longer", {"epochs": 5}, {"criteria": (BEST,)}),
    f"{BEST}, torch's initialisation": ("own", {"model": "lenet300"}, {"criteria": (BEST,)}),
}
"""Row → the training it asks, how that differs from `TRAIN`, and what is asked."""
ASKED: dict[str, Any] = {"kept": KEPT, "amounts": AMOUNTS, "layer_rates": {"output": 0.5}}


def glorot(num_classes: int) -> nn.Module:
    """Make LeNet-300-100 with Glorot's normal initialisation and zero biases."""
    model = build("lenet300", num_classes=num_classes, input_shape=(1, 28, 28))
    for layer in model.children():
        assert isinstance(layer, nn.Linear)
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", required=True, help="folder of the run folders")
    given = options.parse_args()
    torch.set_num_threads(given.threads or 1)
    root, here = Path(given.runs), {"data_root": given.data_root, "trust": True}
    rows, ends = list[dict[str, Any]](), dict[str, list[float]]()
    for seed in SEEDS:
        for title, (name, change, asked) in QUESTIONS.items():
            run = f"{name}-{seed}"
            Train(out=run, seed=seed, **{**TRAIN, **change})(root, **here)
            found = Supermask(run=run, seed=seed, out=f"asked-{seed}", **ASKED, **asked)(root, **here)
            rows += [{**cell, "title": title, "seed": seed} for cell in found.record]
        Train(out=f"learned-{seed}", seed=seed, **{**TRAIN, **LEARN})(root, **here)
        for name in ("learned", "dense"):
            ends.setdefault(name, []).append(Run.open(root / f"{name}-{seed}").history[0]["result"]["top1"])
        print(f"seed {seed} done", flush=True)
    own = ("title", "seed", "criterion", "kept", "masked", "amount", "weights_left", "left", "top1", "loss")
    record(
        "supermasks",
        {"rows": [{name: row[name] for name in own} for row in rows], "ends": ends},
        table=table(rows, ends),
        command="python benchmarks/supermasks.py --runs FOLDER",
        data="mnist, all 60,000 training and 10,000 test images",
        settings={"train": TRAIN, "learn": LEARN, "asked": ASKED, "seeds": SEEDS},
    )


def table(rows: Sequence[dict[str, Any]], ends: dict[str, list[float]]) -> Table:
    """A row for each question, a column for each treatment: top-1 at the best amount of those tried."""
    columns = [Column("title", "Stay"), *(Column(kept, kept, align="right") for kept in KEPT)]
    shown = [{"title": title, **dict(_best(rows, title))} for title in QUESTIONS]
    titles = {"learned": "masks learned, with rescale", "dense": "all weights, trained"}
    shown += [{"title": titles[name], "rewind": _written(values)} for name, values in ends.items()]
    return Table(columns, shown)


def _best(rows: Sequence[dict[str, Any]], title: str) -> Iterator[tuple[str, str]]:
    for kept in KEPT:
        own = [row for row in rows if (row["title"], row["kept"]) == (title, kept)]
        at = {amount: [row["top1"] for row in own if row["amount"] == amount] for amount in AMOUNTS}
        amount = max(AMOUNTS, key=lambda each: fmean(at[each]))
        yield kept, f"{_written(at[amount])} ({100 * amount:.0f})"


def _written(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.1f} ± {100 * stdev(values):.1f}"


if __name__ == "__main__":
    main()
