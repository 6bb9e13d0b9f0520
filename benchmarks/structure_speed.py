"""How long finding the groups and making the smaller model takes, beside Torch-Pruning 1.6.1, in one process run.

Half of the channels of every layer, without the proof (Torch-Pruning gives none). Each model is copied for each
tool, and the tools take turns; each time is the best of `REPEATS`. A Llama-shaped network of 1 and 7 billion
parameters is analysed on the meta device, where it has no weights.

    python benchmarks/structure_speed.py [--threads 1]
"""

from __future__ import annotations

import contextlib
import copy
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision
from torch import nn

from coverage import dependency_pruned
from harness import parser, record
from secateur import analyze, prune
from secateur.core.tables import Column, Format, Table

NAME = "structure_speed"
MODELS = {
    "resnet18": 64, "resnet50": 64, "resnet152": 64, "vgg16_bn": 64, "densenet121": 64, "densenet201": 64,
    "mobilenet_v2": 64, "mobilenet_v3_large": 64, "efficientnet_b0": 64, "efficientnet_v2_s": 64,
    "shufflenet_v2_x1_0": 64, "mnasnet1_0": 64, "regnet_y_1_6gf": 64, "resnext50_32x4d": 64, "squeezenet1_1": 64,
    "convnext_tiny": 64, "convnext_base": 64, "vit_b_16": 224, "swin_t": 64, "swin_b": 64, "fcn_resnet50": 64,
    "deeplabv3_resnet50": 64, "r3d_18": 64,
}  # fmt: skip
REPEATS = 3
LIMIT = 40
SECONDS = Format(lambda value: f"{value:.2f}")


class TooLong(Exception):
    """The time limit has passed."""


def main() -> None:
    given = parser(__doc__, data=False).parse_args()
    torch.set_num_threads(given.threads or 1)
    rows: list[dict[str, Any]] = []
    for name, size in MODELS.items():
        torch.manual_seed(0)
        model = (
            torchvision.models.get_model(name, weights=None, weights_backbone=None)
            if "resnet50" in name and (name.startswith(("fcn", "deeplab")))
            else torchvision.models.get_model(name, weights=None)
        )
        model.eval()
        inputs = torch.randn(1, 3, 8, 64, 64) if name == "r3d_18" else torch.randn(1, 3, size, size)
        ours = best(
            partial(
                prune,
                model,
                inputs,
                granularity="channel",
                amount=0.5,
                scope="local",
                verify=False,
                inplace=False,
            )
        )
        theirs = best(
            lambda model=model, inputs=inputs, name=name: dependency_pruned(  # type: ignore[misc]
                copy.deepcopy(model), inputs, name, True
            )
        )
        rows.append({"model": name, "secateur": ours, "torch_pruning": theirs})
        if isinstance(ours, float) and isinstance(theirs, float):
            rows[-1]["ratio"] = ours / theirs
        print(rows[-1], flush=True)
    ratios = sorted(row["ratio"] for row in rows if "ratio" in row)
    rows.append({"model": "median of those both can do", "ratio": ratios[len(ratios) // 2]})
    rows += [llama("Llama-shaped, 1.1 B, meta, analysis", 2048, 5632, 22, 4)]
    rows += [llama("Llama-shaped, 6.7 B, meta, analysis", 4096, 11008, 32, 32)]
    columns = [
        Column("model", "Model"),
        Column("secateur", "secateur, s", SECONDS),
        Column(
            "torch_pruning", "Torch-Pruning, s", Format(lambda v: v if isinstance(v, str) else f"{v:.2f}")
        ),
        Column("ratio", "Ratio", SECONDS),
    ]
    record(
        NAME,
        {"rows": rows},
        table=Table(columns, rows),
        command="python benchmarks/structure_speed.py",
        repeats=REPEATS,
        limit=LIMIT,
    )


def best(run: Callable[[], Any]) -> float | str:
    """Seconds of the fastest of some runs, or why there is none."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        try:
            with limited():
                run()
        except TooLong:
            return f"over {LIMIT} s"
        except Exception as error:
            return type(error).__name__
        times.append(time.perf_counter() - began)
    return min(times)


@contextlib.contextmanager
def limited() -> Any:
    def stop(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)


def llama(title: str, width: int, hidden: int, layers: int, groups: int) -> dict[str, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=groups,
        use_cache=False,
    )
    with torch.device("meta"):
        model: nn.Module = LlamaForCausalLM(config).eval()
    inputs = {"input_ids": torch.zeros(1, 16, dtype=torch.long, device="meta")}
    began = time.perf_counter()
    analyze(model, inputs)
    seconds = time.perf_counter() - began
    return {"model": title, "secateur": seconds}


if __name__ == "__main__":
    main()
