"""The report's conclusions as sentences that state their rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from secateur.core.tables import percent
from secateur.report.content import RunView, method, removed, result

ACCURACY_TOLERANCE = 0.005
NEAR_SAFE = 0.02
"""Largest distance of a cut's fraction from the safe rate that it tries."""
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
    rated = [run for run in runs if run.safe_rate is not None and run.safe_rate.get("safe") is not None]
    return sentences + [safe_rate_told(run, runs) for run in rated]


def safe_rate_told(run: RunView, runs: Iterable[RunView]) -> str:
    """Return the sentence on a run's safe rate: a prediction, and the accuracy measured there, if any."""
    assert run.safe_rate is not None
    safe = float(run.safe_rate["safe"])
    predicted = f"The safe rate of {run.label}, predicted from its weights alone, is {briefly(safe)}"
    tried = [other for other in runs if _tries(other, run, safe)]
    if not tried:
        return f"{predicted}; no run here shows the accuracy as cut there."
    nearest = min(tried, key=lambda other: abs(removed(other.history[: other.cuts[0] + 1]) - safe))
    first = nearest.cuts[0]
    instead = f" instead of {percent(nearest.before['top1'])}" if nearest.before else ""
    return (
        f"{predicted}; measured as cut at {briefly(removed(nearest.history[: first + 1]))} ({nearest.name}): "
        f"{percent(result(nearest.history[first])['top1'])} top-1{instead}."
    )


def _tries(other: RunView, run: RunView, safe: float) -> bool:
    """Whether `other` began as `run`, and was then cut by global magnitude near its safe rate and tested as cut."""
    if not other.cuts or list(other.history[: other.cuts[0]]) != list(run.history):
        return False
    cut = other.history[other.cuts[0]]
    near = abs(removed(other.history[: other.cuts[0] + 1]) - safe) <= NEAR_SAFE
    return near and method(cut) == "magnitude, global" and result(cut).get("top1") is not None


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
    """Group tested pruned runs by method, fraction removed (to 0.1 %) and stage, such as the seeds of an experiment.

    A cut and the same cut after retraining are two results.
    """
    groups: dict[tuple[str, float, str], list[RunView]] = {}
    for run in runs:
        if not run.is_dense:
            stage = "after retraining" if run.retrained else "as cut"
            groups.setdefault((run.method, round(run.sparsity, 3), stage), []).append(run)
    return [
        PruningOutcome(
            method,
            group[0].removed_from,
            sparsity,
            top1s=[float(run.final["top1"]) for run in group],
            dense=_mean([run.before["top1"] for run in group if run.before]),
            stage=stage,
        )
        for (method, sparsity, stage), group in groups.items()
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
