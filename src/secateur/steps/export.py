"""Hand a run's model over to other programs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from secateur.core.options import MACHINE
from secateur.export import EXPORT_FORMATS, export
from secateur.runs.run import Run
from secateur.steps.base import Context, DataRoot, In, Outcome, Step, Trust, step


@step("export")
class Export(Step):
    """Write a run's model as ONNX or as a PyTorch program.

    The file is run beside the model before it takes its name.
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
    dynamic_batch: Annotated[
        bool, Field(description="take any number of samples at a time", json_schema_extra=MACHINE)
    ] = True
    data_root: DataRoot = None
    trust: Trust = False

    def perform(self, context: Context) -> Outcome:
        """Read, trace, write, compare."""
        run = Run.open(context.at(self.run))
        model, _ = run.load_model(trust=self.trust or context.trust)
        example = run.example(root=context.data_root or self.data_root)
        exported = export(model, example, context.at(self.out), dynamic_batch=self.dynamic_batch)
        lines = [str(exported), *([exported.note] if exported.note else [])]
        record = {**vars(exported), "path": str(exported.path)}
        return Outcome(tuple(lines), record=record)
