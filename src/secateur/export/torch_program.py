"""Programs of `torch.export`, in a file without pickles."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from secateur.core.errors import ModelError
from secateur.export.formats import EXPORT_FORMATS, ExportFormat, ExportRunner
from secateur.graph.trace import tensors_of
from secateur.measure.inputs import ModelInputs, arguments

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def _write(program: ExportedProgram, path: Path, names: Sequence[str]) -> None:
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


def _open(path: Path) -> ExportRunner:
    from torch.export import load

    with path.open("rb") as file:
        program = load(file).module()

    def run(inputs: ModelInputs) -> list[Tensor]:
        args, kwargs = arguments(inputs)
        return tensors_of(program(*args, **kwargs))

    return run


EXPORT_FORMATS.add(".pt2", ExportFormat("PyTorch program", _write, _open))
