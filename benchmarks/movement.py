"""Movement against magnitude: a small text encoder fine-tuned on SST-2 while most of its weights go.

MiniLM (6 layers; --model is the folder of its weights and tokenizer) is fine-tuned on a part of SST-2, expected in
DATA_ROOT/sst2, and tested on its 872 development sentences. Matrices of the encoder are cut, each to the same
fraction, along the cubic schedule; a random cut before fine-tuning stands beside them. Each cell is recorded as it
comes, and a repeated call continues.

    python benchmarks/movement.py --model DIR --data-root DIR [--threads 2] [--seeds 1]
"""

from __future__ import annotations

from statistics import mean
from typing import Any

import torch

from harness import earlier_rows, has, parser, record
from secateur import build, load_data, prune, train
from secateur.core.tables import PERCENT, Column, Table

NAME = "movement"
LEFT = (0.03, 0.10, 0.15)
SENTENCES = 4000
TRAIN: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 5e-5,
    "weight_decay": 0.0,
    "warmup": "5%",
    "clip_norm": 1.0,
    "precision": "bf16-mixed",
}
CUT: dict[str, Any] = {"scope": "local", "layers": ["*encoder*"]}
METHODS: dict[str, dict[str, Any]] = {
    "movement": {"method": "movement", "options": {**CUT, "score_lr": 1e-2}},
    "gradual": {"method": "gradual", "options": {**CUT, "begin": 0.1, "end": 0.75}},
    "random": {},
}

SETTINGS = {**TRAIN, "methods": METHODS}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", required=True, help="folder of the encoder")
    options.add_argument("--seeds", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads or 1)
    data = load_data(f"table:{given.data_root}/sst2", tokenizer=given.model, max_length=32, download=False)
    part = data.subset(train=SENTENCES, seed=0)
    rows = earlier_rows(NAME, SETTINGS)
    cells = [(1.0, "dense"), *((left, name) for left in LEFT for name in METHODS)]
    for seed in range(given.seeds):
        for left, name in cells:
            if has(rows, left=left, method=name, seed=seed):
                continue
            torch.manual_seed(seed)
            model = build(f"hf:{given.model}", num_classes=2)
            method, masks = METHODS.get(name, {}), None
            if name == "random":
                cut = prune(model, amount=1 - left, criterion="random", inplace=True, seed=seed, **CUT)
                masks = cut.masks
            amount: dict[str, Any] = {"amount": 1 - left} if method else {}
            fitted = train(model, part, **TRAIN, **method, **amount, masks=masks, seed=seed)
            rows.append({"left": left, "method": name, "seed": seed, "top1": fitted.rows[-1]["top1"]})
            print(rows[-1], flush=True)
            keep(rows, data.fingerprint())


def keep(rows: list[dict[str, Any]], fingerprint: str) -> None:
    names = ["dense", *METHODS]
    columns = [Column("left", "Weights left", PERCENT), *(Column(name, name, PERCENT) for name in names)]
    table = []
    for left in sorted({row["left"] for row in rows}, reverse=True):
        found = {
            name: [row["top1"] for row in rows if (row["left"], row["method"]) == (left, name)]
            for name in names
        }
        table.append({"left": left, **{name: mean(values) for name, values in found.items() if values}})
    record(
        NAME,
        {"rows": rows},
        table=Table(columns, table),
        command="python benchmarks/movement.py --model DIR",
        data=f"SST-2, {SENTENCES:,} training and 872 development sentences",
        fingerprint=fingerprint,
        settings=SETTINGS,
    )


if __name__ == "__main__":
    main()
