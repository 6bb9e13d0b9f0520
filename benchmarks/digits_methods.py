"""Scopes, and N:M patterns, on a small network: top-1 as cut and after five epochs, mean of three seeds.

The convnet on scikit-learn's digits, trained for 30 epochs (batch 64, learning rate 0.1), cut by magnitude and
retrained for 5 epochs at 0.02, as in the demo. The test split has 360 images: one of them is 0.28 points.

    python benchmarks/digits_methods.py [--threads 1]
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from harness import parser, record
from secateur import SCOPES, build, evaluate, load_data, prune, train
from secateur.core.seeds import seed_of
from secateur.core.tables import PERCENT, Column, Table
from secateur.data import Dataset

SEEDS = (0, 1, 2)
TRAIN: dict[str, Any] = {"epochs": 30, "batch_size": 64, "lr": 0.1, "warmup": "1ep"}
RETRAIN: dict[str, Any] = {"epochs": 5, "batch_size": 64, "lr": 0.02}
AMOUNTS = (0.8, 0.9, 0.95)
PATTERNS = {"2:4": 0.5, "1:4": 0.75, "1:8": 0.875}


def main() -> None:
    given = parser(__doc__, data=False).parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    data = load_data("digits")
    models = [trained(data, seed) for seed in SEEDS]
    dense = statistics.fmean(evaluate(model, data)["top1"] for model in models)

    by_scope: list[Mapping[str, Any]] = [
        {"scope": scope}
        | {key: value for a in AMOUNTS for key, value in reached(models, data, a, scope=scope).items()}
        for scope in SCOPES
    ]
    keep("digits_scopes", "scope", [f"{amount:.0%}" for amount in AMOUNTS], by_scope, dense, data)

    by_pattern: list[Mapping[str, Any]] = []
    for pattern, amount in PATTERNS.items():
        row: dict[str, Any] = {"pattern": f"{pattern} ({amount:.1%})"}
        ways: dict[str, dict[str, Any]] = {
            pattern: {"granularity": pattern},
            "local": {"amount": amount, "scope": "local"},
            "global": {"amount": amount, "scope": "global"},
        }
        for label, choices in ways.items():
            name = "pattern" if label == pattern else label
            row |= dict(
                zip((f"{name} as cut", f"{name} retrained"), both(models, data, **choices), strict=True)
            )
        by_pattern.append(row)
    keep("digits_patterns", "pattern", ["pattern", "local", "global"], by_pattern, dense, data)


def trained(data: Dataset, seed: int) -> nn.Module:
    torch.manual_seed(seed_of("init", seed))
    model = build("convnet", num_classes=data.num_classes, input_shape=data.input_shape)
    train(model, data, seed=seed, **TRAIN)
    return model


def reached(models: list[nn.Module], data: Dataset, amount: float, **choices: Any) -> dict[str, float]:
    as_cut, retrained = both(models, data, amount=amount, **choices)
    return {f"{amount:.0%} as cut": as_cut, f"{amount:.0%} retrained": retrained}


def both(models: list[nn.Module], data: Dataset, **choices: Any) -> tuple[float, float]:
    """Return the mean top-1 of all models, as cut and retrained."""
    as_cut, retrained = [], []
    for seed, model in zip(SEEDS, models, strict=True):
        cut = prune(model, **choices)
        as_cut.append(evaluate(cut.model, data)["top1"])
        train(cut.model, data, masks=cut.masks, seed=seed, **RETRAIN)
        retrained.append(evaluate(cut.model, data)["top1"])
    return statistics.fmean(as_cut), statistics.fmean(retrained)


def keep(
    name: str, key: str, groups: list[str], rows: list[Mapping[str, Any]], dense: float, data: Dataset
) -> None:
    stages = [f"{group} {stage}" for group in groups for stage in ("as cut", "retrained")]
    first = Column(key, f"{key.capitalize()} (dense {dense:.2%})")
    columns = [first, *(Column(stage, stage[:1].upper() + stage[1:], PERCENT) for stage in stages)]
    record(
        name,
        {"dense": dense, "rows": rows},
        table=Table(columns, rows),
        command="python benchmarks/digits_methods.py",
        data="scikit-learn's digits, 1,437 training and 360 test images",
        fingerprint=data.fingerprint(),
        settings={"train": TRAIN, "retrain": RETRAIN},
        seeds=list(SEEDS),
    )


if __name__ == "__main__":
    main()
