"""A made-up but realistic pruning study: one dense LeNet-5 and six runs cut from it and trained again."""

from __future__ import annotations

import math
import random
from statistics import NormalDist
from typing import Any

from secateur.measure import Latency, Measurement
from secateur.report.content import ReportContent, RunView

LAYERS = {"conv1": 150, "conv2": 2400, "fc1": 48000, "fc2": 10080, "fc3": 840}
PARAMETERS = 61706
MACS = 416520
METHODS = {"magnitude, global": (0.0, 1.0), "magnitude, local": (0.004, 1.6), "random, global": (0.03, 6.0)}
AMOUNTS = (0.8, 0.95)
ENVIRONMENT = {
    "secateur": "0.1.0",
    "python": "3.11.7",
    "torch": "2.15.0",
    "torchvision": "0.29.2",
    "platform": "Linux-6.1-x86_64",
    "processor": "AMD EPYC 7B13",
    "cores": 2,
    "threads": 2,
    "device": "cpu",
    "date": "2026-11-20",
}
RECIPE = """model: lenet5
data: mnist
train: {epochs: 10, lr: 0.1, batch_size: 256, seed: 0}
prune:
  criterion: [magnitude, random]
  scope: [global, local]
  amount: [0.8, 0.95]
retrain: {epochs: 3, lr: 0.01}
"""


def normal_cosine(rate: float) -> float:
    """The cosine similarity left when the fraction `rate` of smallest |w| of normal weights is cut."""
    if rate >= 1:
        return 0.0
    normal = NormalDist()
    cut = normal.inv_cdf((1 + rate) / 2)
    return math.sqrt(1 - (rate - 2 * cut * normal.pdf(cut)))


def safe_rate(tensors: int = 10, seed: int = 0) -> dict[str, Any]:
    rng = random.Random(seed)
    curve = [{"rate": step / 100, "cosine": normal_cosine(step / 100)} for step in range(101)]
    best = min(curve, key=lambda row: math.hypot(1 - row["rate"], 1 - row["cosine"]))
    names = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]
    names += [f"block{index}.weight" for index in range(tensors - len(names))]
    safe = best["rate"] * 0.76
    return {
        "optimum": best["rate"],
        "optimum_cosine": best["cosine"],
        "kurtosis_of_kurtoses": 2.49,
        "modifier": 0.76,
        "safe": safe,
        "safe_cosine": normal_cosine(safe),
        "notes": ["κ² is below e, so the modifier is 1/log₂ κ²."],
        "curve": curve,
        "kurtoses": [
            {"name": name, "kurtosis": 1.8 + rng.expovariate(0.5), "size": 10 + 40 * index}
            for index, name in enumerate(names[:tensors])
        ],
        "excluded": [{"name": "bn.bias", "reason": "all its elements are equal"}],
        "parameters": PARAMETERS,
    }


def epochs(do: str, step: int, count: int, start: float, end: float) -> list[dict[str, Any]]:
    rows = []
    for epoch in range(1, count + 1):
        top1 = end - (end - start) * math.exp(-1.1 * epoch)
        error = 1 - top1
        rows.append(
            {
                "step": step,
                "do": do,
                "epoch": epoch,
                "iteration": 235 * epoch,
                "lr": 0.1,
                "train_loss": 4 * error,
            }
            | {"train_top1": top1 - 0.002, "loss": 3 * error + 0.01, "top1": top1, "top5": 0.9995}
        )
    return rows


def measurement(sparsity: float, seed: int = 0) -> Measurement:
    single = 0.00041 + 0.00002 * random.Random(seed).random()
    return Measurement(
        parameters=PARAMETERS,
        nonzero=round(PARAMETERS * (1 - sparsity)),
        sparsity=sparsity,
        macs=MACS,
        macs_nonzero=round(MACS * (1 - 0.8 * sparsity)),
        bytes_dense=4 * PARAMETERS,
        bytes_compressed=round(4 * PARAMETERS * (0.93 - 0.85 * sparsity)),
        latencies=(Latency(1, single, 0.00004, 900, 2), Latency(256, 20 * single, 0.0006, 60, 2)),
        note="Zeros bring no speed." if sparsity else "",
    )


def layers(method: str, amount: float) -> list[dict[str, Any]]:
    slope = {"magnitude, global": 0.35, "magnitude, local": 0.0, "random, global": 0.01}[method]
    return [
        {
            "layer": name,
            "parameters": size,
            "sparsity": min(0.999, max(0.0, amount + slope * (math.log(size) - 10) / 7)),
        }
        for name, size in LAYERS.items()
    ]


def history(method: str, amount: float, seed: int = 0) -> list[dict[str, Any]]:
    criterion, scope = method.split(", ")
    loss, steep = METHODS[method]
    cut = max(0.1, 0.981 - steep * (amount**6) * 0.15 - (0.6 if criterion == "random" else 0))
    final = 0.981 - loss - (amount - 0.8) * 0.1 * steep - 0.0006 * seed
    name = f"lenet5-{criterion}-{scope}-{round(100 * amount)}"
    return [
        dense_entry(),
        {
            "do": "prune",
            "run": name,
            "config": {
                "granularity": "weight",
                "criterion": criterion,
                "scope": scope,
                "amount": amount,
                "seed": seed,
            },
            "result": {
                "requested": amount,
                "achieved": amount,
                "top1": cut,
                "top5": 0.99,
                "loss": 3 * (1 - cut),
            },
            "seconds": 0.1,
            "command": "secateur prune …",
            "environment": ENVIRONMENT,
        },
        {
            "do": "retrain",
            "run": name,
            "config": {"epochs": 3, "lr": 0.01, "seed": seed},
            "result": {"top1": final, "top5": 0.999, "loss": 3 * (1 - final)},
            "seconds": 21.0,
            "command": "secateur retrain …",
            "environment": ENVIRONMENT,
        },
    ]


def dense_entry() -> dict[str, Any]:
    return {
        "do": "train",
        "run": "lenet5",
        "config": {"model": "lenet5", "data": "mnist", "epochs": 10, "lr": 0.1, "seed": 0},
        "result": {"top1": 0.9812, "top5": 0.9998, "loss": 0.061},
        "seconds": 61.2,
        "command": "secateur train lenet5 --data mnist --epochs 10",
        "environment": ENVIRONMENT,
    }


def content(title: str = "LeNet-5 on MNIST", label: str = "{method}, {amount:.0%}") -> ReportContent:
    """The whole study: one dense run with a safe rate, and every method at every amount."""
    dense = RunView(
        "lenet5",
        "dense",
        history=[dense_entry()],
        curves=epochs("train", 0, 10, 0.5, 0.9812),
        layers=[{"layer": name, "parameters": size, "sparsity": 0.0} for name, size in LAYERS.items()],
        measurement=measurement(0.0),
        safe_rate=safe_rate(),
    )
    runs = [dense]
    for method in METHODS:
        for amount in AMOUNTS:
            entries = history(method, amount)
            cut, final = (entry["result"]["top1"] for entry in entries[1:])
            runs.append(
                RunView(
                    entries[-1]["run"],
                    label.format(method=method, amount=amount),
                    history=entries,
                    curves=[*dense.curves, *epochs("retrain", 2, 3, cut, final)],
                    layers=layers(method, amount),
                    measurement=measurement(amount, seed=len(runs)),
                )
            )
    return ReportContent(
        title=title,
        recipe=RECIPE,
        command="secateur study --recipe lenet5.yaml --report report.html",
        environment=ENVIRONMENT,
        runs=runs,
        notes=["Trained on 60,000 images, tested on 10,000."],
    )
