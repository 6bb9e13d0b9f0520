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
from harness import record

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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dense, masked = stepper(options.device, False), stepper(options.device, True)
    for step, _ in (dense, masked) * 3:
        seconds(step, options.device)
    pairs, upkeep = [], []
    for turn in range(options.pairs):
        order = (dense, masked) if turn % 2 == 0 else (masked, dense)
        times = {kind: seconds(kind[0], options.device) for kind in order}
        pairs.append((times[dense], times[masked]))
        upkeep.append(seconds(masked[1], options.device))
    without, with_masks = (statistics.median(column) for column in zip(*pairs, strict=True))
    result = {
        "step_ms": round(1e3 * without, 2),
        "masked_step_ms": round(1e3 * with_masks, 2),
        "ratio": round(statistics.median(after / before for before, after in pairs), 4),
        "upkeep_ms": round(1e3 * statistics.median(upkeep), 3),
        "upkeep_share": round(statistics.median(upkeep) / without, 4),
        "pairs": options.pairs,
    }
    print(
        f"step {result['step_ms']} ms, with masks {result['masked_step_ms']} ms: {result['ratio']:.3f} times; "
        f"upkeep alone {result['upkeep_ms']} ms, {result['upkeep_share']:.2%} of a step"
    )
    facts = {"model": "resnet20", "batch": BATCH, "sparsity": SPARSITY, "device": options.device, "seed": 0}
    print(record("mask_overhead", result, **facts))


if __name__ == "__main__":
    main()
