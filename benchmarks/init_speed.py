"""Seconds that scoring at initialisation takes, beside one training step of the same network.

torchvision's ResNet-50 on 16 images of 224×224, 90 % of its weights cut: SynFlow in its 100 rounds (it looks at one
input of ones), GraSP, SNIP and Taylor on the 16 images, magnitude for what ranking alone takes. A step is forward,
backward and SGD on the 16 images; it is timed before and after each of them, and its best counts.

    python benchmarks/init_speed.py [--threads 1]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from harness import parser, record
from secateur import prune
from secateur.core.tables import Column, Format, Table

BATCH = 16
CRITERIA = ("magnitude", "snip", "taylor", "grasp", "synflow")
SECONDS = Format(lambda value: f"{value:.2f}")


def main() -> None:
    given = parser(__doc__, data=False).parse_args()
    torch.set_num_threads(given.threads or 1)
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None)
    images, labels = torch.randn(BATCH, 3, 224, 224), torch.randint(1000, (BATCH,))
    trained = torchvision.models.resnet50(weights=None)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(trained(images), labels).backward()
        optimizer.step()

    seconds(step)
    steps, rows = [seconds(step)], list[dict[str, Any]]()
    for criterion in CRITERIA:
        took = seconds(partial(cut, model, criterion, images, labels))
        steps.append(seconds(step))
        rows.append({"criterion": criterion, "seconds": took})
        print(rows[-1], steps[-1], flush=True)
    step_seconds = min(steps)
    rows = [{**row, "steps": row["seconds"] / step_seconds} for row in rows]
    rows.append({"criterion": "one training step", "seconds": step_seconds, "steps": 1.0})
    columns = [
        Column("criterion", "Criterion"),
        Column("seconds", "Seconds", SECONDS),
        Column("steps", "Training steps", Format(lambda value: f"{value:.1f}")),
    ]
    record(
        "init_speed",
        {"rows": rows, "steps": steps},
        table=Table(columns, rows),
        command="python benchmarks/init_speed.py --threads 1",
        data=f"{BATCH} random images of 224×224",
    )


def cut(model: nn.Module, criterion: str, images: torch.Tensor, labels: torch.Tensor) -> None:
    prune(model, images[:1], amount=0.9, criterion=criterion, data=[(images, labels)])


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
