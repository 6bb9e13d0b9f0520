"""Measured latency of a forward pass, with its spread.

Timed by `torch.utils.benchmark`, which warms up, synchronises accelerators and fixes the number of threads.
Several models are timed in turns in one process, in alternating order, so that a drift of the machine's speed affects
all alike: compare their medians with each other, not with those of another run.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from secateur.core.contexts import evaluating
from secateur.core.errors import InputError
from secateur.core.progress import bar
from secateur.core.seeds import same_draws
from secateur.measure.inputs import ModelInputs, arguments, forward, with_batch

if TYPE_CHECKING:
    from torch.utils.benchmark import Measurement, Timer


@dataclass(frozen=True)
class Latency:
    """Seconds of one forward pass of `batch` samples: `median` and interquartile range `iqr` of `runs` passes.

    `threads` is torch's number of threads on the processor.
    """

    batch: int
    median: float
    iqr: float
    runs: int
    threads: int

    @property
    def throughput(self) -> float:
        """Samples per second at the median."""
        return self.batch / self.median

    def to_json(self) -> dict[str, Any]:
        """Return the value as a plain dictionary of numbers."""
        return asdict(self)


def latency(
    model: nn.Module,
    example_inputs: ModelInputs,
    batch_sizes: Iterable[int] = (1, 32),
    threads: int | None = None,
    seconds: float = 0.5,
) -> tuple[Latency, ...]:
    """Time forward passes of `model` in evaluation and inference mode, one `Latency` per batch size.

    The example inputs are repeated or cut to each batch size (default 1 and 32); `threads` defaults to torch's
    setting; `seconds` (default 0.5) is the time spent on each batch size, without warm-up. The model is unchanged.
    Raises `InputError` for batch sizes, threads or seconds that are not positive, `ModelError` if the forward pass
    fails.
    """
    return compare_latency({"model": model}, example_inputs, batch_sizes, threads, seconds)["model"]


def compare_latency(
    models: Mapping[str, nn.Module],
    example_inputs: ModelInputs,
    batch_sizes: Iterable[int] = (1, 32),
    threads: int | None = None,
    seconds: float = 0.5,
    rounds: int = 5,
) -> dict[str, tuple[Latency, ...]]:
    """Time several models in turns on the same inputs; name → one `Latency` per batch size.

    Each model gets `seconds` per batch size in `rounds` turns (default 5), whose order is reversed from round to
    round. The other arguments and the errors are those of `latency`.
    """
    names, batch_sizes = list(models), tuple(batch_sizes)
    threads = torch.get_num_threads() if threads is None else threads
    for name, value in {"seconds": seconds, "threads": threads, "rounds": rounds}.items():
        _require_positive(name, value)
    for batch in batch_sizes:
        _require_positive("batch size", batch)

    results: dict[str, list[Latency]] = {name: [] for name in models}
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        stack.enter_context(same_draws(0, *models.values()))
        stack.enter_context(torch.inference_mode())
        running = stack.enter_context(
            bar("time", len(batch_sizes) * rounds * len(models), shown=len(models) > 1)
        )
        for batch in batch_sizes:
            inputs = with_batch(example_inputs, batch)
            timers = {name: _timer(model, inputs, threads) for name, model in models.items()}
            turns: dict[str, list[Measurement]] = {name: [] for name in models}
            for turn in range(rounds):
                for name in names[::-1] if turn % 2 else names:
                    turns[name].append(timers[name].blocked_autorange(min_run_time=seconds / rounds))
                    running.advance()
            for name, measurements in turns.items():
                results[name].append(_summary(batch, threads, measurements))
    return {name: tuple(latencies) for name, latencies in results.items()}


def _timer(model: nn.Module, inputs: ModelInputs, threads: int) -> Timer:
    forward(model, inputs)
    args, kwargs = arguments(inputs)
    names = {"model": model, "args": args, "kwargs": kwargs}
    timer: Timer = _benchmark().Timer("model(*args, **kwargs)", globals=names, num_threads=threads)
    return timer


def _summary(batch: int, threads: int, measurements: list[Measurement]) -> Latency:
    times = torch.tensor(
        [time for measurement in measurements for time in measurement.times], dtype=torch.float64
    )
    low, median, high = torch.quantile(times, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    runs = sum(measurement.number_per_run * len(measurement.raw_times) for measurement in measurements)
    return Latency(batch, median, high - low, runs, threads)


def _benchmark() -> ModuleType:
    """Import torch's timer, which logs a warning about CUDA on machines that have its compiler but no GPU."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return importlib.import_module("torch.utils.benchmark")
    finally:
        logger.setLevel(level)


def _require_positive(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"The {name} for timing cannot be {value}: give a positive number.")
