"""The file formats a model can be exported to, by the suffix of the file's name.

A format writes a program traced by `torch.export`, and opens its file as a function from inputs to outputs.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from secateur.core.errors import ModelError
from secateur.core.extras import need
from secateur.core.registry import Registry
from secateur.graph.trace import tensors_of
from secateur.measure.inputs import ModelInputs, arguments

if TYPE_CHECKING:
    from torch.export import ExportedProgram

ExportRunner: TypeAlias = Callable[[ModelInputs], list[Tensor]]


@dataclass(frozen=True)
class ExportFormat:
    """A file format of programs.

    `kind` is its name in words. `write(program, path, names)` writes the file, `names` being those of the outputs;
    `open(path)` returns a function that runs it. `check()` raises `MissingExtraError` if one of its packages is
    missing.
    """

    kind: str
    write: Callable[[ExportedProgram, Path, Sequence[str]], None]
    open: Callable[[Path], ExportRunner]
    check: Callable[[], None] = lambda: None


EXPORT_FORMATS: Registry[ExportFormat] = Registry("format to export to")


def _check_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        need(name, extra="onnx", for_="A file ending in .onnx")


def _write_onnx(program: ExportedProgram, path: Path, names: Sequence[str]) -> None:
    torch.onnx.export(
        program, (), path, dynamo=True, external_data=False, output_names=list(names), verbose=False
    )


def _open_onnx(path: Path) -> ExportRunner:
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


def _write_program(program: ExportedProgram, path: Path, names: Sequence[str]) -> None:
    """Write the program without its example inputs, which the format would pickle, and check for other pickles."""
    from torch.export import save

    program.example_inputs = None
    with path.open("wb") as file:
        save(program, file)
    _check_no_pickle(path)


def _check_no_pickle(path: Path) -> None:
    """Raise `ModelError` if the archive holds a pickled tensor or constant, such as a tensor subclass."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            held = json.loads(archive.read(name))["config"] if name.endswith("_config.json") else {}
            for tensor, about in held.items():
                if about["use_pickle"]:
                    raise ModelError(f"{tensor} is no plain tensor, and the format would pickle it")


def _open_program(path: Path) -> ExportRunner:
    from torch.export import load

    with path.open("rb") as file:
        program = load(file).module()

    def run(inputs: ModelInputs) -> list[Tensor]:
        args, kwargs = arguments(inputs)
        return tensors_of(program(*args, **kwargs))

    return run


EXPORT_FORMATS.add(".onnx", ExportFormat("ONNX model", _write_onnx, _open_onnx, _check_onnx))
EXPORT_FORMATS.add(".pt2", ExportFormat("PyTorch program", _write_program, _open_program))
