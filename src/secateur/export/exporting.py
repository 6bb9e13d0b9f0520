"""Export of a model to one file that other programs run, with a check of its outputs."""

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
from secateur.core.seeds import same_draws
from secateur.core.wrapped import unwrapped
from secateur.export.formats import EXPORT_FORMATS, ExportFormat
from secateur.graph.trace import tensors_of
from secateur.measure.inputs import ModelInputs, arguments, batch_size, forward, with_batch
from secateur.shrink.verify import distance
from secateur.sparsity.targets import require_module

if TYPE_CHECKING:
    from torch.export import ExportedProgram

EXPORT_TOLERANCE = 1e-4
"""Largest difference of an export's outputs from the model's, relative to the largest output."""


@dataclass(frozen=True)
class Exported:
    """A file written by `export`.

    `kind` names the format of the file at `path`, `bytes` is its size. `error` is the largest difference between its
    outputs and the model's over the largest output. `batch` is its fixed number of samples, None for any; `note` is
    the reason of a fixed one with `dynamic_batch`.
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
    model: nn.Module,
    example_inputs: ModelInputs,
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> Exported:
    """Write `model` in eval mode as a program: for ONNX runtimes (.onnx) or for PyTorch (.pt2).

    The file's outputs are compared with the model's on `example_inputs` (a tensor, a tuple of arguments or a dict of
    keyword arguments) before it takes the name `path`. With `dynamic_batch` (the default) it takes any number of
    samples along the first dimension, checked at two other numbers; if the model doesn't allow that, its number is
    that of the example, and the result's `note` has the reason. A .pt2 file holds graph and weights, and no pickle.
    Weights cut by masks are written as zeros. A cache of keys and values is not among the outputs. `metadata` are texts
    by name that an ONNX file keeps beside its graph; other formats have no place for them.

    Raises `InputError` for another suffix, `MissingExtraError` if ONNX is not installed, `ModelError` for a model
    that can't be traced or whose export has other outputs, `StoreError` if the file can't be written.

    >>> export(nn.Linear(4, 2), torch.ones(1, 4), "small.pt2").error
    0.0
    """
    require_module(model)
    model = unwrapped(model)
    suffix = Path(path).suffix.lower()
    if suffix not in EXPORT_FORMATS:
        raise InputError(
            f"Cannot export to {path}: choose a name that ends in {' or '.join(EXPORT_FORMATS)}."
        )
    EXPORT_FORMATS[suffix].check()
    note = ""
    with evaluating(model), same_draws(0, model), torch.no_grad(), _without_cache(model), _silenced():
        forward(model, example_inputs)
        if dynamic_batch and batch_size(example_inputs):
            try:
                return _attempt(model, example_inputs, path, None, metadata=metadata)
            except ModelError as error:
                note = f"A free batch size failed ({_reason(error)}): it is that of the example."
        return _attempt(model, example_inputs, path, batch_size(example_inputs), note, metadata)


def _attempt(
    model: nn.Module,
    inputs: ModelInputs,
    path: str | os.PathLike[str],
    batch: int | None,
    note: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Exported:
    """Write the file for a fixed or (None) free `batch`. Raises `ModelError` for any failure but of the disk."""
    form = EXPORT_FORMATS[Path(path).suffix.lower()]
    try:
        with writing(path) as temporary:
            error = _write(model, inputs, form, temporary, free=batch is None)
            if metadata and form.describe is not None:
                form.describe(temporary, metadata)
            size = temporary.stat().st_size
    except StoreError:
        raise
    except Exception as failure:  # tracing and conversion raise exceptions of every type
        others = " or ".join(suffix for suffix in EXPORT_FORMATS if EXPORT_FORMATS[suffix] is not form)
        raise ModelError(
            f"{type(model).__name__} can't be exported to {Path(path).name} ({_reason(failure)}): "
            f"keep it with secateur.save, or try {others}."
        ) from failure
    return Exported(Path(path), form.kind, error, size, batch, note)


def _write(
    model: nn.Module, example_inputs: ModelInputs, form: ExportFormat, path: Path, free: bool
) -> float:
    """Write the file and return the largest relative difference of its outputs from the model's."""
    given = batch_size(example_inputs)
    traced = (
        with_batch(example_inputs, max(2, given)) if free else example_inputs
    )  # torch takes 1 for a constant
    form.write(_program(model, traced, free), path, _names(forward(model, traced)))
    run = form.open(path)
    tried = [with_batch(example_inputs, given + more) for more in (1, 2)] if free else []
    errors = []
    for inputs in [example_inputs, *tried]:
        with same_draws(0, model):
            expected = [tensor.cpu() for tensor in tensors_of(forward(model, inputs))]
        with same_draws():
            errors.append(distance(expected, [tensor.cpu() for tensor in run(inputs)]))
    worst = max(errors)
    if not worst <= EXPORT_TOLERANCE:
        raise ModelError(f"the exported model differs by {worst:.1e} of the largest output")
    return worst


def _program(model: nn.Module, inputs: ModelInputs, free: bool) -> ExportedProgram:
    """Trace the model; with `free`, the first dimension of inputs with one entry per sample is dynamic."""
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
    """Return the outputs' names: the keys of a mapping, else numbers."""
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
    """Suppress output, warnings and logs of torch's exporters within the block."""
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
    """Return the first sentence of the error's root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return reason_of(error)
