"""All measurements of a model in one call: parameters, MACs, bytes, latency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from secateur.measure.cost import cost
from secateur.measure.inputs import ModelInputs, masked, with_batch
from secateur.measure.latency import Latency
from secateur.measure.latency import latency as time_forward
from secateur.measure.size import size
from secateur.measure.statistics import statistics

WORTH_A_NOTE = 0.01
"""Least sparsity that is attributed to pruning rather than to biases initialised to zero."""


@dataclass(frozen=True)
class Measurement:
    """The measurements of a model.

    `sparsity` is the fraction of `parameters` that is zero, `weight_sparsity` that of the matrices and kernels alone,
    without biases and normalisations. `macs` are multiply-accumulates per sample,
    `macs_nonzero` those of an ideal sparse kernel. Bytes are of the state dict, `bytes_compressed` after DEFLATE.
    `latencies` has one entry per batch size, none without timing. `note` is a sentence for zeros that bring no
    speed, otherwise empty.
    """

    parameters: int
    nonzero: int
    sparsity: float
    macs: int
    macs_nonzero: int
    bytes_dense: int
    bytes_compressed: int
    latencies: tuple[Latency, ...]
    note: str
    weight_sparsity: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the value as JSON: dictionaries, lists, numbers and strings."""
        return asdict(self) | {"latencies": [latency.to_json() for latency in self.latencies]}


def measure(
    model: nn.Module,
    example_inputs: ModelInputs,
    masks: Mapping[str, Tensor] | None = None,
    *,
    latency: bool = True,
    batch_sizes: Iterable[int] = (1, 32),
    threads: int | None = None,
    seconds: float = 0.5,
) -> Measurement:
    """Measure `model`, which is unchanged.

    `example_inputs` is a tensor, a tuple of arguments or a mapping of keyword arguments of at least one
    sample, on the model's device. Weights cut by `masks` (name → boolean tensor, True keeps) count as zero.
    `latency=False` skips the timing; `batch_sizes`, `threads` and `seconds` are those of
    `secateur.measure.latency`. Raises `InputError` for invalid masks or numbers, `ModelError` if the forward
    pass fails.
    """
    with masked(model, masks):
        counts = statistics(model)
        work = cost(model, with_batch(example_inputs, 1))
        stored = size(model)
        times = time_forward(model, example_inputs, batch_sizes, threads, seconds) if latency else ()
    return Measurement(
        parameters=counts.parameters,
        nonzero=counts.nonzero,
        sparsity=counts.sparsity,
        macs=work.macs,
        macs_nonzero=work.macs_nonzero,
        bytes_dense=stored.bytes_dense,
        bytes_compressed=stored.bytes_compressed,
        latencies=times,
        note=_note(counts.sparsity),
        weight_sparsity=counts.weight_sparsity,
    )


def _note(sparsity: float) -> str:
    if sparsity < WORTH_A_NOTE:
        return ""
    return (
        f"{100 * sparsity:.0f} % of the weights are zero, but the tensors keep their size: on dense kernels "
        "this model is as slow and takes as much memory as the unpruned one; only its compressed file is "
        "smaller."
    )
