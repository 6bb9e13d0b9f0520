"""The file formats a model can be exported to, by the suffix of the file's name; each is one module of this package.

A format writes a program traced by `torch.export`, and opens its file as a function from inputs to outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

from secateur.core.registry import Registry
from secateur.measure.inputs import ModelInputs

if TYPE_CHECKING:
    from torch.export import ExportedProgram

ExportRunner: TypeAlias = Callable[[ModelInputs], list[Tensor]]


@dataclass(frozen=True)
class ExportFormat:
    """A file format of programs.

    `kind` is its name in words. `write(program, path, names)` writes the file, `names` being those of the outputs;
    `open(path)` returns a function that runs it. `check()` raises `MissingExtraError` if one of its packages is
    missing. `describe(path, metadata)`, where there is one, adds texts by name to the file.
    """

    kind: str
    write: Callable[[ExportedProgram, Path, Sequence[str]], None]
    open: Callable[[Path], ExportRunner]
    check: Callable[[], None] = lambda: None
    describe: Callable[[Path, Mapping[str, str]], None] | None = None


EXPORT_FORMATS: Registry[ExportFormat] = Registry("format to export to")
