"""What do masks cost? Training steps of a ResNet-20 with and without them, and the upkeep alone.

Batches of 128 images of CIFAR's shape, 80 % of the weights cut at random, SGD with momentum. The two trainings
take turns step by step in one process, so that whatever else the machine does slows both; the ratio is the median
over pairs of neighbouring steps. The upkeep alone (zeroing gradients and weights) is timed beside it, as a share
of the median step without masks.

    python benchmarks/mask_overhead.py [--pairs 60] [--threads 2] [--device cuda]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

import secateur
from harness import parser, record
from secateur.core.tables import MILLISECONDS, NUMBER, PERCENT, Column, Table

BATCH, SPARSITY = 128, 0.8


def stepper(device: str, masked: bool) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what takes one training step, and what does its share of upkeep alone."""
    torch.manual_seed(0)
    model = secateur.build("resnet20", num_classes=10, input_shape=(3, 32, 32))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    pruned = secateur.prune(model, amount=SPARSITY if masked else 0.0, criterion="random", inplace=True)
    held = (pruned.masks if masked else secateur.Masks({})).hold(model, optimizer)
    images = torch.randn(BATCH, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def upkeep() -> None:
        held.zero_gradients()
        held.zero_weights()

    return step, upkeep


def seconds(action: Callable[[], None], device: str) -> float:
    began = time.perf_counter()
    action()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    given = options()
    torch.set_num_threads(given.threads)
    dense, masked = stepper(given.device, False), stepper(given.device, True)
    for step, _ in (dense, masked) * 3:
        seconds(step, given.device)
    pairs, upkeep = [], []
    for turn in range(given.pairs):
        order = (dense, masked) if turn % 2 == 0 else (masked, dense)
        times = {kind: seconds(kind[0], given.device) for kind in order}
        pairs.append((times[dense], times[masked]))
        upkeep.append(seconds(masked[1], given.device))
    without, with_masks = (statistics.median(column) for column in zip(*pairs, strict=True))
    result = {
        "model": "resnet20",
        "step": without,
        "masked_step": with_masks,
        "ratio": statistics.median(after / before for before, after in pairs),
        "upkeep": statistics.median(upkeep),
        "upkeep_share": statistics.median(upkeep) / without,
        "pairs": given.pairs,
    }
    columns = [
        Column("model", "Model"),
        Column("step", "Step", MILLISECONDS),
        Column("masked_step", "Step with masks", MILLISECONDS),
        Column("ratio", "Ratio", NUMBER),
        Column("upkeep", "Upkeep alone", MILLISECONDS),
        Column("upkeep_share", "Of a step", PERCENT),
    ]
    record(
        "mask_overhead",
        result,
        table=Table(columns, [result]),
        command="python benchmarks/mask_overhead.py",
        batch=BATCH,
        sparsity=SPARSITY,
        device=given.device,
        seed=0,
    )


def options() -> argparse.Namespace:
    made = parser(__doc__, data=False)
    made.set_defaults(threads=2)
    made.add_argument("--pairs", type=int, default=60, help="steps of each kind")
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    return made.parse_args()


if __name__ == "__main__":
    main()
