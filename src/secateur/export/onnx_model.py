"""ONNX models, written by torch and opened by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from secateur.core.extras import need
from secateur.export.formats import EXPORT_FORMATS, ExportFormat, ExportRunner
from secateur.measure.inputs import ModelInputs, arguments

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def _check() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        need(name, extra="onnx", for_="A file ending in .onnx")


def _write(program: ExportedProgram, path: Path, names: Sequence[str]) -> None:
    torch.onnx.export(
        program, (), path, dynamo=True, external_data=False, output_names=list(names), verbose=False
    )


def _open(path: Path) -> ExportRunner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(inputs: ModelInputs) -> list[Tensor]:
        args, kwargs = arguments(inputs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        fed = dict(zip(names, given, strict=True)) if set(names) - kwargs.keys() else kwargs
        outputs = session.run(None, {name: fed[name].detach().cpu().numpy() for name in names})
        return [torch.from_numpy(output) for output in outputs]

    return run


def _describe(path: Path, metadata: Mapping[str, str]) -> None:
    """Add texts to the model's metadata, which runtimes show (`session.get_modelmeta().custom_metadata_map`)."""
    import onnx

    model = onnx.load(path)
    own = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**own, **metadata})
    onnx.save(model, path)


EXPORT_FORMATS.add(".onnx", ExportFormat("ONNX model", _write, _open, _check, _describe))
