"""Table of the layers of a run's model, or of its coupled groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from secateur.analysis import kurtosis
from secateur.core.modules import named_parameters
from secateur.core.options import MACHINE
from secateur.core.tables import COUNT, NUMBER, PERCENT, SI, Column, Table
from secateur.graph.analyze import analyze
from secateur.measure import cost, statistics
from secateur.measure.inputs import with_batch
from secateur.measure.statistics import TensorStatistics
from secateur.runs.run import Run
from secateur.steps import grouping
from secateur.steps.base import SAMPLES, Context, DataRoot, In, Outcome, Step, Trust, step
from secateur.steps.choices import OutputFormat


@step("inspect")
class Inspect(Step):
    """Show a run's layers one by one.

    Shapes, parameters, MACs, sparsity, kurtosis and dead units of each, and the totals. With --groups, the coupled
    groups instead, and the units that can't be cut, with the reason.
    """

    run: In
    groups: Annotated[
        bool,
        Field(description="show the groups of coupled channels and heads instead", json_schema_extra=MACHINE),
    ] = False
    data_root: DataRoot = None
    trust: Trust = False
    format: OutputFormat = "text"

    def perform(self, context: Context) -> Outcome:
        """Count and return one row for each layer."""
        run = Run.open(context.at(self.run))
        model, masks = run.load_model(trust=self.trust or context.trust)
        example = run.example(root=context.data_root or self.data_root)
        if self.groups:
            return grouping.outcome(run, analyze(model, with_batch(example, SAMPLES)))
        work = cost(model, example)
        counts = statistics(model, masks)
        weights = dict(named_parameters(model))
        tensors = defaultdict(list)
        for tensor in counts.tensors:
            tensors[tensor.name.rpartition(".")[0]].append(tensor)
        rows: list[dict[str, Any]] = []
        for layer in work.layers:
            own = tensors[layer.name]
            largest = max(own, key=lambda tensor: tensor.parameters, default=None)
            rows.append(
                {
                    "layer": layer.name or "(model)",
                    "kind": layer.kind,
                    "input": _times(layer.input_shape),
                    "output": _times(layer.output_shape),
                    "parameters": layer.parameters or None,
                    "macs": layer.macs or None,
                    "sparsity": _sparsity(own),
                    "weight_sparsity": _sparsity([tensor for tensor in own if tensor.role == "weights"]),
                    "kurtosis": kurtosis(weights[largest.name]) if largest else None,
                    "dead_units": sum(t.dead_units for t in own) if any(t.units for t in own) else None,
                }
            )
        columns = [
            Column("layer", "Layer"),
            Column("kind", "Kind"),
            Column("input", "Input"),
            Column("output", "Output"),
            Column("parameters", "Parameters", COUNT),
            Column("macs", "MACs", SI),
            Column("sparsity", "Sparsity", PERCENT, help="Zeros among the layer's own parameters"),
            Column("weight_sparsity", "Of weights", PERCENT, help="Zeros among its weights, without biases"),
            Column(
                "kurtosis",
                "Kurtosis",
                NUMBER,
                help="Of the layer's largest tensor; 3 for a normal distribution",
            ),
            Column("dead_units", "Dead units", COUNT, help="Outputs whose weights are all zero"),
        ]
        total = (
            f"{run.folder} ({run.title}): {counts.parameters:,} parameters, {counts.nonzero:,} not zero "
            f"(sparsity {100 * counts.sparsity:.2f} %; of the weights {100 * counts.weight_sparsity:.2f} %), "
            f"{counts.pruned:,} held at zero by masks, "
            f"{work.macs:,} MACs per sample, {counts.dead_units:,} dead units"
        )
        record = {
            "run": run.name,
            "parameters": counts.parameters,
            "nonzero": counts.nonzero,
            "pruned": counts.pruned,
            "sparsity": counts.sparsity,
            "weights": counts.weights,
            "weights_nonzero": counts.weights_nonzero,
            "weight_sparsity": counts.weight_sparsity,
            "macs": work.macs,
            "macs_nonzero": work.macs_nonzero,
            "dead_units": counts.dead_units,
            "layers": Table(columns, rows).records(),
        }
        return Outcome((total,), Table(columns, rows), record)


def _sparsity(tensors: Sequence[TensorStatistics]) -> float | None:
    """Return the fraction of zeros among the entries of tensors, None without an entry."""
    parameters = sum(tensor.parameters for tensor in tensors)
    return 1 - sum(tensor.nonzero for tensor in tensors) / parameters if parameters else None


def _times(shape: tuple[int, ...] | None) -> str | None:
    return None if shape is None else "×".join(map(str, shape))
