"""The report's conclusions as sentences that state their rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from secateur.core.tables import percent
from secateur.report.content import RunView

ACCURACY_TOLERANCE = 0.005
WITHIN = f"{100 * ACCURACY_TOLERANCE:g} points"


@dataclass(frozen=True)
class PruningOutcome:
    """Outcome of runs with the same cut: their `top1s`, and the mean top-1 of their dense models.

    `sparsity` is the removed fraction of the unit `of`.
    """

    method: str
    of: str
    sparsity: float
    top1s: Sequence[float]
    dense: float | None
    stage: str

    @property
    def top1(self) -> float:
        """The mean top-1."""
        return fmean(self.top1s)

    @property
    def near(self) -> bool:
        """Whether the mean top-1 is within the tolerance of the dense one."""
        return self.dense is not None and self.top1 >= self.dense - ACCURACY_TOLERANCE

    def told(self) -> str:
        """Return the outcome as a sentence."""
        instead = "" if self.dense is None else f" instead of {percent(self.dense)}"
        low, high = percent(min(self.top1s)), percent(max(self.top1s))
        spread = f" (mean of {len(self.top1s)} runs, {low} to {high})" if len(self.top1s) > 1 else ""
        return (
            f"{self.method[:1].upper()}{self.method[1:]}: {briefly(self.sparsity)} of the {self.of}"
            f" removed, {percent(self.top1)} top-1 {self.stage}{instead}{spread}."
        )


def summary(runs: Sequence[RunView]) -> list[str]:
    """Return a conclusion per model and data set, then the safe pruning rates, as sentences."""
    tested = [run for run in runs if run.final.get("top1") is not None]
    subjects = list(dict.fromkeys(run.subject for run in tested))
    sentences = []
    for subject in subjects:
        conclusion = _conclusion([run for run in tested if run.subject == subject])
        sentences.append(f"{subject}: {conclusion}" if len(subjects) > 1 else conclusion)
    return sentences + [
        f"Safe pruning rate of {run.label}: {briefly(run.safe_rate['safe'])}."
        for run in runs
        if run.safe_rate is not None and run.safe_rate.get("safe") is not None
    ]


def _conclusion(runs: Sequence[RunView]) -> str:
    """Return the sparsest outcome near the dense accuracy, or else the most accurate one, as a sentence."""
    found = outcomes(runs)
    if not found:
        return f"The dense model reaches {percent(max(run.final['top1'] for run in runs))} top-1."
    near = [outcome for outcome in found if outcome.near]
    if near:
        best = max(near, key=lambda outcome: (outcome.sparsity, outcome.top1))
        rule = f"the sparsest within {WITHIN} of the dense top-1"
    else:
        best = max(found, key=lambda outcome: (outcome.top1, outcome.sparsity))
        rule = "the most accurate" + (
            "" if best.dense is None else f"; none is within {WITHIN} of the dense top-1"
        )
    return best.told() if len(found) == 1 else f"{best.told()} Of {len(found)} results it is {rule}."


def outcomes(runs: Iterable[RunView]) -> list[PruningOutcome]:
    """Group tested pruned runs by method and sparsity (to 0.1 %), such as the seeds of an experiment."""
    groups: dict[tuple[str, float], list[RunView]] = {}
    for run in runs:
        if not run.is_dense:
            groups.setdefault((run.method, round(run.sparsity, 3)), []).append(run)
    return [
        PruningOutcome(
            method,
            group[0].removed_from,
            sparsity,
            top1s=[float(run.final["top1"]) for run in group],
            dense=_mean([run.before["top1"] for run in group if run.before]),
            stage="after retraining" if all(run.retrained for run in group) else "as cut",
        )
        for (method, sparsity), group in groups.items()
    ]


def masks_bring_no_speed(runs: Iterable[RunView]) -> str:
    """Return the sentence on the speed of masked models; empty if no run was cut by masks."""
    if not any(run.measurement and run.measurement.note for run in runs):
        return ""
    return (
        "A masked weight is zero but still there: every tensor keeps its shape, so a masked model takes"
        " the memory, the MACs and the time of the dense one. “MACs at nonzero” is what code that skips every"
        " zero would have to execute; what masks make smaller is the compressed file."
    )


def briefly(fraction: float) -> str:
    """Return a fraction as percent with at most one decimal: 0.8 → "80 %"."""
    return f"{100 * fraction:.1f}".removesuffix(".0") + " %"


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
