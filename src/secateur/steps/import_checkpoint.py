"""Import of checkpoints and pretrained models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from secateur import models
from secateur.runs.run import Run
from secateur.sparsity.masks import Masks
from secateur.steps.base import (
    Context,
    Evaluate,
    Out,
    Outcome,
    Overwrite,
    Step,
    Stopwatch,
    is_done,
    making,
    outcome_of,
    percent,
    step,
)
from secateur.steps.choices import DataChoice, ModelChoice
from secateur.training import evaluate


@step("import")
class Import(Step, ModelChoice, DataChoice):
    """Take a model's weights in as a run folder.

    The weights come from a checkpoint file (.pt, .pth, .th, .safetensors; opened without running any code), or from
    the model's own source, such as --model torchvision:resnet18 --model-arg weights=DEFAULT.
    """

    out: Out
    weights: Annotated[
        str | None, Field(description="checkpoint file; the weights of the model's source when left out")
    ] = None
    evaluate: Evaluate = True
    overwrite: Overwrite = False

    def perform(self, context: Context) -> Outcome:
        """Build the model, load the weights safely, measure the accuracy and save a run folder."""
        folder = context.at(self.out)
        context.check_code(self.model)
        planned = [self.identity()]
        context.comes_to(folder, planned)
        if is_done(folder, planned, self.overwrite):
            return outcome_of(
                folder, planned, f"{folder} holds this model already; --overwrite imports it again."
            )
        with making(folder):
            return self._made(folder, context)

    def _made(self, folder: Path, context: Context) -> Outcome:
        watch = Stopwatch()
        data = self.load_data(context)
        model = self.build(data)
        if self.weights is not None:
            models.load_weights(model, self.weights)
        result = evaluate(model, data) if self.evaluate else {}
        run = Run(
            folder,
            self.spec,
            self.data_arguments(context),
            data.input_shape,
            data.num_classes,
            preparation=data.preparation,
        )
        run.record(model, Masks({}), {"do": self.do, "config": self.config()}, result, watch.seconds)
        accuracy = f": top-1 {percent(result['top1'])} on the test split" if result else ""
        return Outcome((f"{folder} holds {self.model}{accuracy}",), record={"run": str(folder), **result})
