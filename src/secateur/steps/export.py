"""Export of a run's model to ONNX or a PyTorch program."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field

from secateur.core.options import MACHINE
from secateur.export import EXPORT_FORMATS, export
from secateur.runs.run import Run
from secateur.steps.base import Context, DataRoot, In, Outcome, Step, Trust, step


@step("export")
class Export(Step):
    """Write a run's model as ONNX or as a PyTorch program.

    The outputs of the exported program are compared with those of the model before the file is saved. An ONNX file has
    the mean, std, size and classes of the run's data in its metadata, as JSON.
    """

    run: In
    out: Annotated[
        str,
        Field(
            min_length=1,
            description=f"file to write: {' or '.join(EXPORT_FORMATS)}",
            json_schema_extra=MACHINE,
        ),
    ]
    dynamic_batch: Annotated[bool, Field(description="variable batch size", json_schema_extra=MACHINE)] = True
    data_root: DataRoot = None
    trust: Trust = False

    def perform(self, context: Context) -> Outcome:
        """Read, trace, write and compare."""
        run = Run.open(context.at(self.run))
        model, _ = run.load_model(trust=self.trust or context.trust)
        example = run.example(root=context.data_root or self.data_root)
        metadata = {
            name: json.dumps(value) for name, value in (run.preparation or {}).items() if value is not None
        }
        exported = export(
            model, example, context.at(self.out), dynamic_batch=self.dynamic_batch, metadata=metadata
        )
        lines = [str(exported), *([exported.note] if exported.note else [])]
        record = {**vars(exported), "path": str(exported.path)}
        return Outcome(tuple(lines), record=record)
