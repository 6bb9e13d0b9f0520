"""A small language model made smaller by dropping, fusing and reconstructing its units, without training.

The language model (260 K parameters, Llama-type, 8 query heads over 4 key/value heads), expected in DATA_ROOT/lm: mean
next-token loss over 890 windows of 256 tokens, with a part of the channels inside its MLPs gone, of its attention heads
(key/value groups), or of the width that all layers and the tied embedding share. What needs data gets 64 other windows.

    python benchmarks/compensation_lm.py --data-root DIR [--threads 1]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from harness import parser, record
from heads import WINDOWS, loss
from secateur import Calibration, prune
from secateur.core.tables import PERCENT, Column, Format, Table

NAME = "compensation_lm"
KINDS: dict[str, dict[str, Any]] = {
    "MLP channels": {"granularity": "channel", "layers": ["mlp"]},
    "heads": {"granularity": "head"},
    "width": {"granularity": "channel", "layers": ["model.norm"]},
}
CRITERIA: dict[str, dict[str, Any]] = {
    "magnitude": {"criterion": "magnitude"},
    "refit": {"criterion": "refit", "normalization": "none"},
    "taylor": {"criterion": "taylor"},
}
WAYS = ("drop", "fuse", "reconstruct")
LOSS = Format(lambda value: f"{value:.3f}")


def main() -> None:
    given = parser(__doc__).parse_args()
    torch.set_num_threads(given.threads or 1)
    folder = Path(given.data_root) / "lm"
    model = AutoModelForCausalLM.from_pretrained(folder / "stories260k").eval()
    tokens = np.load(folder / "tinystories_tokens.npz")
    windows = torch.from_numpy(tokens["evaluation"].astype(np.int64))[:WINDOWS]
    calibration = torch.from_numpy(tokens["calibration"].astype(np.int64))[:64].split(16)
    data = Calibration([({"input_ids": ids, "labels": ids, "use_cache": False}, None) for ids in calibration])
    example = {"input_ids": windows[:1, :32], "use_cache": False}
    dense, rows = loss(model, windows), []
    columns = [
        Column("kind", f"Cut (dense: {dense:.3f})"),
        Column("amount", "Removed", PERCENT),
        Column("criterion", "Criterion"),
        Column("drop", "Dropped", LOSS),
        Column("fuse", "Fused", LOSS),
        Column("reconstruct", "Reconstructed", LOSS),
    ]
    for kind, cut in KINDS.items():
        for amount in (0.1, 0.2, 0.3):
            for criterion, own in CRITERIA.items():
                if criterion == "taylor" and kind != "heads":
                    continue
                row: dict[str, Any] = {"kind": kind, "amount": amount, "criterion": criterion}
                for way in WAYS:
                    made = prune(
                        model,
                        example,
                        amount=amount,
                        scope="global",
                        data=data,
                        compensation=way,
                        **cut,
                        **own,
                    )
                    row[way] = loss(made.model, windows)
                rows.append(row)
    record(
        NAME,
        {"dense": dense, "rows": rows},
        table=Table(columns, rows),
        command=f"python benchmarks/{NAME}.py",
        seed=0,
    )


if __name__ == "__main__":
    main()
