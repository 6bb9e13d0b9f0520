"""Seconds and extra memory of the safe rate of a model of 100 million parameters.

Each measurement runs in a fresh process. Peak memory is the process's largest resident set, less what it held
when the model stood ready. The sort is timed with numpy (in place, vectorised, one thread), which the package
uses, and with torch beside it.

    python benchmarks/safe_rate_speed.py [--parameters 100000000]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor

from harness import parser, record
from secateur.core.tables import COUNT, NUMBER, Column, Table


def model(parameters: int) -> dict[str, Tensor]:
    """Layers of a million entries: normal, Laplace and uniform weights in turn, each with a bias."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    rows = 1000
    layers = parameters // (rows * rows)
    for layer in range(layers):
        weight = torch.empty(rows, rows - 1)
        if layer % 3 == 0:
            weight.normal_(0, 0.05, generator=generator)
        elif layer % 3 == 1:
            sign = torch.empty_like(weight).uniform_(-1, 1, generator=generator).sign_()
            weight.exponential_(20, generator=generator).mul_(sign)
        else:
            weight.uniform_(-0.1, 0.1, generator=generator)
        tensors[f"layer{layer}.weight"] = weight
        tensors[f"layer{layer}.bias"] = torch.empty(rows).normal_(0, 0.01, generator=generator)
    return tensors


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_safe_rate(parameters: int) -> dict[str, float]:
    from secateur.analysis import safe_rate

    safe_rate(model(1_000_000))  # first-call costs
    tensors = model(parameters)
    size = sum(tensor.nbytes for tensor in tensors.values())
    before = peak()
    start = time.perf_counter()
    result = safe_rate(tensors)
    seconds = time.perf_counter() - start
    return {
        "parameters": result.parameters,
        "seconds": round(seconds, 2),
        "memory": round((peak() - before) / size, 2),
        "optimum": result.optimum,
        "safe": result.safe,
    }


def measure_sorts(parameters: int) -> dict[str, float]:
    values = torch.randn(parameters, generator=torch.Generator().manual_seed(0)).abs()
    copy = values.numpy().copy()
    start = time.perf_counter()
    copy.sort()
    numpy_seconds = time.perf_counter() - start
    start = time.perf_counter()
    torch.sort(values)
    return {"numpy_sort": round(numpy_seconds, 2), "torch_sort": round(time.perf_counter() - start, 2)}


MEASURES = {"safe_rate": measure_safe_rate, "sorts": measure_sorts}


def apart(name: str, parameters: int) -> dict[str, float]:
    """Measure in a fresh process with as many threads as this one."""
    command = [sys.executable, __file__, "--measure", name]
    command += ["--parameters", str(parameters), "--threads", str(torch.get_num_threads())]
    found: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    return found


def main() -> None:
    made = parser(__doc__, data=False)
    made.add_argument("--parameters", type=int, default=100_000_000)
    made.add_argument("--measure", choices=[*MEASURES], help="measure one thing in this process and print it")
    options = made.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(MEASURES[options.measure](options.parameters)))
        return
    row = apart("safe_rate", options.parameters) | apart("sorts", options.parameters)
    columns = [
        Column("parameters", "Parameters", COUNT),
        Column("seconds", "Safe rate, s", NUMBER),
        Column("memory", "Extra memory, times the model", NUMBER),
        Column("numpy_sort", "One sort, numpy, s", NUMBER),
        Column("torch_sort", "One sort, torch, s", NUMBER),
    ]
    record(
        "safe_rate_speed",
        row,
        table=Table(columns, [row]),
        command="python benchmarks/safe_rate_speed.py",
        seed=0,
    )


if __name__ == "__main__":
    main()
