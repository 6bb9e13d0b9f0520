"""Masked weights, dropped or reconstructed without training: a small trained language model, and ResNet-20.

The language model (260 K parameters, Llama-type), expected in DATA_ROOT/lm: mean next-token loss over 890 windows of
256 tokens, with half of every layer's weights gone or the pattern 2:4, reconstructed on 64 windows. ResNet-20, from the
public checkpoint resnet20-12fca82f.th in DATA_ROOT/weights/cifar10 (ImageNet normalisation): accuracy on the 10,000
test images of CIFAR-10 under global magnitude pruning, reconstructed on 256 training images.

    python benchmarks/weight_reconstruction.py --data-root DIR [--threads 1]
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from harness import parser, record, trained
from heads import WINDOWS, loss
from secateur import evaluate, prune
from secateur.core.tables import PERCENT, Column, Format, Table

NAME = "weight_reconstruction"
COMMAND = f"python benchmarks/{NAME}.py"
LOSS = Format(lambda value: f"{value:.3f}")
WAYS: dict[str, dict[str, Any]] = {
    "dropped": {},
    "swept": {"compensation": "reconstruct", "refine": 0},
    "refined": {"compensation": "reconstruct"},
}
CHOSEN: dict[str, dict[str, Any]] = {
    "magnitude": {"criterion": "magnitude"},
    "wanda": {"criterion": "wanda"},
    "obs": {"criterion": "obs"},
    "obs, outputs": {"criterion": "obs", "outputs": True},
    "the sweep (select=obs)": {"select": "obs"},
}
AMOUNTS = (0.5, 0.7, 0.8, 0.9)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", choices=("language", "images"), default=None, help="one of the two")
    given = options.parse_args()
    torch.set_num_threads(given.threads or 1)
    root = Path(given.data_root)
    if given.only != "images":
        language(root / "lm")
    if given.only != "language":
        images(root)


def language(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder / "stories260k").eval()
    tokens = np.load(folder / "tinystories_tokens.npz")
    windows = torch.from_numpy(tokens["evaluation"].astype(np.int64))[:WINDOWS]
    calibration = torch.from_numpy(tokens["calibration"].astype(np.int64))[:64].split(16)
    batches = [({"input_ids": ids, "labels": ids, "use_cache": False}, None) for ids in calibration]
    dense, rows = loss(model, windows), []
    for cut in ({"granularity": "weight", "amount": 0.5}, {"granularity": "2:4"}):
        for chosen, own in CHOSEN.items():
            row: dict[str, Any] = {
                "cut": "2:4" if "amount" not in cut else "50 % of each layer",
                "chosen": chosen,
            }
            for way, asked in WAYS.items():
                if "select" in own and not asked:
                    continue
                start = time.perf_counter()
                made = prune(model, scope="local", data=batches, **cut, **asked, **own)
                row["seconds"] = time.perf_counter() - start
                row[way] = loss(made.model, windows)
            rows.append(row)
    columns = [
        Column("cut", f"Cut (dense: {dense:.3f})"),
        Column("chosen", "Chosen by"),
        Column("dropped", "Dropped", LOSS),
        Column("swept", "Reconstructed, the sweep alone", LOSS),
        Column("refined", "Reconstructed", LOSS),
        Column("seconds", "Seconds", Format(lambda value: f"{value:.1f}")),
    ]
    record(NAME, {"dense": dense, "rows": rows}, table=Table(columns, rows), command=COMMAND, seed=0)


def images(root: Path) -> None:
    model, data = trained("resnet20", str(root))
    chosen = data.subset(train=256, seed=0).train
    batches = [(data.normalised(chosen.inputs), chosen.labels)]
    dense, rows = evaluate(model, data)["top1"], []
    for amount in AMOUNTS:
        row: dict[str, Any] = {"amount": amount}
        for way, asked in {**WAYS, "obs": {"compensation": "reconstruct", "select": "obs"}}.items():
            row[way] = evaluate(prune(model, amount=amount, data=batches, **asked).model, data)["top1"]
        rows.append(row)
    columns = [
        Column("amount", f"Weights cut (dense: {dense:.2%})", PERCENT),
        Column("dropped", "Dropped", PERCENT),
        Column("swept", "Reconstructed, the sweep alone", PERCENT),
        Column("refined", "Reconstructed", PERCENT),
        Column("obs", "Reconstructed, chosen by obs", PERCENT),
    ]
    record(
        f"{NAME}_images",
        {"dense": dense, "rows": rows},
        table=Table(columns, rows),
        command=COMMAND,
        seed=0,
        fingerprint=data.fingerprint(),
    )


if __name__ == "__main__":
    main()
