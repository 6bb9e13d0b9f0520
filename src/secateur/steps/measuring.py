"""Measurement and labels of runs, for the report and the comparison."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from secateur.core.errors import InputError
from secateur.core.progress import track
from secateur.measure import Measurement, compare_latency, measure, statistics
from secateur.report.content import RunView, is_cut, method, removed
from secateur.runs.run import RUN_FILE, Run
from secateur.steps.base import Context


def open_runs(names: Sequence[str], context: Context) -> list[Run]:
    """Open the named run folders; a name with * or ? stands for all run folders it matches, in order of name.

    A folder that is no run stands for all runs in it and its subfolders.

    Raises `InputError` for a name without a match, `StoreError` for a folder that is no finished run and holds none.
    """
    runs: list[Run] = []
    for name in names:
        if not glob.has_magic(name):
            runs += [Run.open(path) for path in _runs_in(context.at(name))]
            continue
        found = sorted(path.parent for path in context.root.glob(f"{name}/{RUN_FILE}"))
        if not found:
            raise InputError(f"No run folder matches {name}: make one with secateur train or import.")
        runs += [Run.open(path) for path in found]
    return list({run.folder.resolve(): run for run in runs}.values())


def _runs_in(folder: Path) -> list[Path]:
    """Return the run folders below a folder that is none itself, in order of name; else the folder."""
    if (folder / RUN_FILE).exists():
        return [folder]
    return sorted(path.parent for path in folder.rglob(RUN_FILE)) or [folder]


def views(
    runs: Sequence[Run],
    *,
    latency: bool = True,
    batch_sizes: Sequence[int] = (1, 64),
    threads: int | None = None,
    seconds: float = 0.2,
    data_root: str | None = None,
    trust: bool = False,
) -> list[RunView]:
    """Read and measure `runs`; latencies are measured in turns in one process, so that they are comparable."""
    labels = [run.name for run in runs]
    if len(set(labels)) < len(labels):
        labels = [str(run.folder) for run in runs]
    models, measured, layers = {}, {}, {}
    for label, run in track(list(zip(labels, runs, strict=True)), "measure", len(runs)):
        model, masks = run.load_model(trust=trust)
        models[label] = model
        measured[label] = measure(model, run.example(root=data_root), latency=False)
        layers[label] = [
            {"layer": tensor.name, "sparsity": tensor.sparsity, "parameters": tensor.parameters}
            for tensor in statistics(model).tensors
            if tensor.name in masks
        ]
    if latency:
        for group in _same_inputs(labels, runs):
            example = group[0][1].example(root=data_root)
            times = compare_latency(
                {label: models[label] for label, _ in group}, example, batch_sizes, threads, seconds
            )
            measured |= {label: replace(measured[label], latencies=times[label]) for label, _ in group}
    return [
        RunView(
            name=label,
            label=_label(label, run),
            history=run.history,
            curves=run.journal(),
            layers=layers[label],
            measurement=measured[label],
            safe_rate=run.safe_rate(),
        )
        for label, run in zip(labels, runs, strict=True)
    ]


def notes(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """Return the note on masks, one for all measurements that have one."""
    noted = sorted((measured for measured in measurements if measured.note), key=lambda each: each.sparsity)
    if len(noted) < 2:
        return tuple(measured.note for measured in noted)
    return (
        f"Of {len(noted)} models {100 * noted[0].sparsity:.0f} to {100 * noted[-1].sparsity:.0f} % of the weights are "
        "zero, but the tensors keep their size: on dense kernels they are as slow and take as much memory as the "
        "unpruned one; only their compressed files are smaller.",
    )


def _same_inputs(labels: Sequence[str], runs: Sequence[Run]) -> list[list[tuple[str, Run]]]:
    """Group runs by the input shape of their models: only their latencies are comparable."""
    groups: dict[tuple[int, ...] | None, list[tuple[str, Run]]] = {}
    for label, run in zip(labels, runs, strict=True):
        groups.setdefault(run.input_shape, []).append((label, run))
    return list(groups.values())


def _label(name: str, run: Run) -> str:
    """Return a run's name with its cut and the fraction removed: "p80 (magnitude, global, 80 %)"."""
    cuts = [entry for entry in run.history if is_cut(entry)]
    return f"{name} ({method(cuts[-1])}, {100 * removed(run.history):.4g} %)" if cuts else name
