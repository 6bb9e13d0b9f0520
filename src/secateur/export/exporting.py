"""Export a model to one file that other programs run, and prove that they compute the same."""

from __future__ import annotations

import inspect
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.core.contexts import evaluating
from secateur.core.errors import InputError, ModelError, StoreError, reason_of
from secateur.core.files import writing
from secateur.export.formats import EXPORT_FORMATS, ExportFormat
from secateur.graph.trace import tensors_of
from secateur.measure.inputs import ModelInputs, arguments, batch_size, forward, with_batch
from secateur.shrink.verify import distance
from secateur.sparsity.targets import require_module

if TYPE_CHECKING:
    from torch.export import ExportedProgram

EXPORT_TOLERANCE = 1e-4
"""The largest difference to the model's outputs, over the largest of them, that an export may show."""


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    `kind` says what the file at `path` is, `bytes` how large. `error` is the largest difference between its outputs
    and the model's over the largest output. `batch` is the number of samples it takes at a time, None for any; `note`
    says why it is fixed although it was to be free.
    """

    path: Path
    kind: str
    error: float
    bytes: int
    batch: int | None
    note: str = ""

    def __str__(self) -> str:
        batch = "any batch size" if self.batch is None else f"batch size {self.batch} only"
        return (
            f"{self.path}: {self.kind}, {self.bytes:,} bytes, {batch}; "
            f"largest difference {self.error:.1e} of the largest output"
        )


def export(
    model: nn.Module, example_inputs: ModelInputs, path: str | os.PathLike[str], *, dynamic_batch: bool = True
) -> Exported:
    """Write `model` in eval mode as a program: for ONNX runtimes (.onnx) or for PyTorch (.pt2).

    The file is run beside the model on `example_inputs` (a tensor, a tuple of arguments or a dict of keyword
    arguments) before it takes the name `path`. With `dynamic_batch` it takes any number of samples along the first
    dimension, which is tried at two other numbers; where the model doesn't allow that, it takes as many as the
    example has, and the result says why. A .pt2 file holds graph and weights, and no pickle. Weights that were cut by
    masks are written as the zeros they are. A cache of keys and values is not among the outputs.

    Raises `InputError` for another suffix, `MissingExtraError` where ONNX is not installed, `ModelError` for a model
    that can't be traced or computes something else once exported, `StoreError` where the file can't be written.

    >>> export(nn.Linear(4, 2), torch.ones(1, 4), "small.pt2").error
    0.0
    """
    require_module(model)
    suffix = Path(path).suffix.lower()
    if suffix not in EXPORT_FORMATS:
        raise InputError(
            f"Cannot export to {path}: choose a name that ends in {' or '.join(EXPORT_FORMATS)}."
        )
    EXPORT_FORMATS[suffix].check()
    note = ""
    with evaluating(model), torch.no_grad(), _without_cache(model), _silenced():
        forward(model, example_inputs)
        if dynamic_batch and batch_size(example_inputs):
            try:
                return _attempt(model, example_inputs, path, None)
            except ModelError as error:
                note = f"A free batch size failed ({_reason(error)}): it is that of the example."
        return _attempt(model, example_inputs, path, batch_size(example_inputs), note)


def _attempt(
    model: nn.Module, inputs: ModelInputs, path: str | os.PathLike[str], batch: int | None, note: str = ""
) -> Exported:
    """Write the file, or raise `ModelError`."""
    form = EXPORT_FORMATS[Path(path).suffix.lower()]
    try:
        with writing(path) as temporary:
            error = _write(model, inputs, form, temporary, free=batch is None)
            size = temporary.stat().st_size
    except StoreError:
        raise
    except Exception as failure:  # whatever tracing or converting a model comes upon
        others = " or ".join(suffix for suffix in EXPORT_FORMATS if EXPORT_FORMATS[suffix] is not form)
        raise ModelError(
            f"{type(model).__name__} can't be exported to {Path(path).name} ({_reason(failure)}): "
            f"keep it with secateur.save, or try {others}."
        ) from failure
    return Exported(Path(path), form.kind, error, size, batch, note)


def _write(
    model: nn.Module, example_inputs: ModelInputs, form: ExportFormat, path: Path, free: bool
) -> float:
    """Write the file and return how far its outputs are from the model's."""
    given = batch_size(example_inputs)
    traced = (
        with_batch(example_inputs, max(2, given)) if free else example_inputs
    )  # torch takes 1 for a constant
    form.write(_program(model, traced, free), path, _names(forward(model, traced)))
    run = form.open(path)
    tried = [with_batch(example_inputs, given + more) for more in (1, 2)] if free else []
    errors = []
    for inputs in [example_inputs, *tried]:
        expected = [tensor.cpu() for tensor in tensors_of(forward(model, inputs))]
        errors.append(distance(expected, [tensor.cpu() for tensor in run(inputs)]))
    worst = max(errors)
    if not worst <= EXPORT_TOLERANCE:
        raise ModelError(f"the exported model differs by {worst:.1e} of the largest output")
    return worst


def _program(model: nn.Module, inputs: ModelInputs, free: bool) -> ExportedProgram:
    """Trace the model, the first dimension of what has one entry for each sample being `free`."""
    from torch.export import Dim, export

    args, kwargs = arguments(inputs)
    samples, dimension = batch_size(inputs), Dim("batch")

    def dynamic(leaf: Any) -> Any:
        batched = isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == samples
        return {0: dimension} if batched else None

    named = kwargs or dict(inspect.signature(model.forward).bind(*args).arguments)
    shapes = tree_map(dynamic, named) if free else None
    program = export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths and source lines of this machine
    return program


def _names(outputs: Any) -> list[str]:
    """Name the outputs as the model's own mapping does, else by number."""
    if isinstance(outputs, Mapping) and all(isinstance(value, Tensor) for value in outputs.values()):
        return [str(key) for key in outputs]
    count = len(tensors_of(outputs))
    return ["output"] if count == 1 else [f"output_{number}" for number in range(count)]


@contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    """Keep language models from returning keys and values for later calls."""
    config: Any = getattr(model, "config", None)
    if not getattr(config, "use_cache", False):
        yield
        return
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = True


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep what torch has to say to its own developers off the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    screen = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(screen), redirect_stderr(screen):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _reason(error: BaseException) -> str:
    """Return the first sentence of what went wrong at the root."""
    while error.__cause__ is not None:
        error = error.__cause__
    return reason_of(error)
