"""Half of the attention heads removed for real: a vision transformer, and a small trained language model.

ViT-B/16 (torchvision, random weights): parameters, MACs, the proof, and the time of a pass. The language model
(260 K parameters, Llama-type, 8 query heads over 4 key/value heads), expected in DATA_ROOT/lm: mean next-token loss
over 890 windows of 256 tokens, dense and with a quarter and half of its key/value groups gone, no retraining.

    python benchmarks/heads.py --data-root DIR [--threads 1]
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn
from transformers import AutoModelForCausalLM

from harness import parser, record
from secateur import Pruned, prune
from secateur.core.tables import PERCENT, Column, Format, Table
from secateur.measure.latency import compare_latency

NAME = "heads"
WINDOWS = 890
CRITERIA = ("magnitude", "taylor", "random")


def main() -> None:
    given = parser(__doc__).parse_args()
    torch.set_num_threads(given.threads or 1)
    torch.manual_seed(0)
    rows = [*vision(), *language(Path(given.data_root) / "lm")]
    columns = [
        Column("model", "Model"),
        Column("criterion", "Criterion"),
        Column("heads", "Heads removed", PERCENT),
        Column("parameters", "Parameters left", PERCENT),
        Column("macs", "MACs left", PERCENT),
        Column("verification", "Verification error", Format(lambda error: f"{error:.0e}")),
        Column("time", "Time left", PERCENT),
        Column("perplexity", "Perplexity", Format(lambda value: f"{value:.3f}")),
        Column("loss", "Loss", Format(lambda value: f"{value:.3f}")),
    ]
    record(NAME, {"rows": rows}, table=Table(columns, rows), command="python benchmarks/heads.py", seed=0)


def vision() -> list[dict[str, Any]]:
    model = torchvision.models.vit_b_16(weights=None).eval()
    image = torch.randn(1, 3, 224, 224)
    cut = prune(model, image, granularity="head", amount=0.5, scope="local")
    timed = compare_latency({"dense": model, "cut": cut.model}, image, (1,), seconds=5.0)
    return [
        {"model": "ViT-B/16", "criterion": "magnitude", **costs(cut, 0.5)}
        | {"time": timed["cut"][0].median / timed["dense"][0].median}
    ]


def language(folder: Path) -> list[dict[str, Any]]:
    model = AutoModelForCausalLM.from_pretrained(folder / "stories260k").eval()
    tokens = np.load(folder / "tinystories_tokens.npz")
    windows = torch.from_numpy(tokens["evaluation"].astype(np.int64))[:WINDOWS]
    calibration = torch.from_numpy(tokens["calibration"].astype(np.int64))[:64].split(16)
    batches = [({"input_ids": ids, "labels": ids, "use_cache": False}, None) for ids in calibration]
    example = {"input_ids": windows[:1, :32], "use_cache": False}
    dense = loss(model, windows)
    name = "language model, 260 K"
    rows = [{"model": name, "criterion": "dense", "loss": dense, "perplexity": math.exp(dense)}]
    for amount in (0.25, 0.5):
        for criterion in CRITERIA:
            cut = prune(
                model,
                example,
                granularity="head",
                amount=amount,
                scope="local",
                criterion=criterion,
                data=batches if criterion == "taylor" else None,
                correct=False,
            )
            after = loss(cut.model, windows)
            rows.append(
                {"model": name, "criterion": criterion, **costs(cut, amount)}
                | {"loss": after, "perplexity": math.exp(after)}
            )
    return rows


def costs(cut: Pruned, amount: float) -> dict[str, Any]:
    assert cut.parameters is not None
    assert cut.macs is not None
    assert cut.verification is not None
    return {
        "heads": amount,
        "parameters": cut.parameters[1] / cut.parameters[0],
        "macs": cut.macs[1] / cut.macs[0],
        "verification": cut.verification.error,
    }


@torch.inference_mode()
def loss(model: nn.Module, windows: torch.Tensor) -> float:
    """Mean next-token loss, in nats."""
    total = 0.0
    for ids in windows.split(32):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        targets = ids[:, 1:]
        total += float(nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"))
    return total / (len(windows) * (windows.shape[1] - 1))


if __name__ == "__main__":
    main()
