"""Cuts of one group of a model by several compensations, with their accuracy and cost.

The experiment published with Intra-Fusion (Theus et al. 2024, Towards Meta-Pruning via Optimal Transport): the same
units are removed in every way, by dropping, by fusing, or with a least-squares reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from secateur.compensation import COMPENSATIONS
from secateur.core.errors import InputError, ModelError
from secateur.core.modules import named_parameters, parameters_of
from secateur.criteria import CRITERIA, Calibration
from secateur.data import Dataset
from secateur.data.dataset import each
from secateur.graph.groups import Group, Groups
from secateur.measure import compare_latency, cost
from secateur.pruning.api import prune
from secateur.pruning.result import Pruned
from secateur.sparsity.masks import Masks
from secateur.steps.base import SAMPLES
from secateur.training import evaluate

ORIGINAL = "original_model"
WAYS = {"default_pruning": "drop", "intra_fusion": "fuse", "reconstruction": "reconstruct"}
"""Name of a way in records → compensation."""

PUBLISHED_CRITERIA = {
    "l1": ("folded_norm", {"norm": "l1"}),
    "l2": ("folded_norm", {"norm": "l2"}),
    "lamp": ("folded_lamp", {}),
    "taylor": ("folded_taylor", {}),
    "chip": ("folded_chip", {}),
}
"""Criterion of the published command → (criterion, options)."""

UNFOLDED_CRITERIA = {
    "unfolded_l1": ("magnitude", {"norm": "l1"}),
    "unfolded_l2": ("magnitude", {"norm": "l2"}),
    "unfolded_lamp": ("lamp", {}),
    "unfolded_taylor": ("taylor", {}),
    "unfolded_chip": ("chip", {}),
}
"""Name of the library's own criterion where the published one has its name → (criterion, options)."""


def from_output(model: nn.Module, groups: Groups) -> list[Group]:
    """Return the groups that may be cut, nearest the output first.

    The position of a group is that of the last parameter that produces its units, in the order of the model's
    parameters; of two groups with the same one, the later first parameter is nearer. The classes are excluded.
    """
    place = {name: index for index, (name, _) in enumerate(named_parameters(model))}

    def span(group: Group) -> tuple[int, int]:
        makers = [place.get(m.name, -1) for m in group.members if not m.buffer and not m.reads]
        return max(makers, default=-1), min(makers, default=-1)

    return sorted(groups.free, key=span, reverse=True)


def alone(groups: Sequence[Group], group: Group) -> dict[str, Any]:
    """Return the settings that limit a cut to one group."""
    own = {member.name for member in group.members}
    others = {m.name for each in groups if each is not group for m in each.members if not m.buffer}
    return {"layers": (group.name,), "keep": tuple(sorted(others - own))}


@dataclass(frozen=True)
class FusionSubject:
    """A model, its test data, and the criterion of its units.

    `options` are those of the criterion and of all compensations; each takes its own. `correct` is the argument of
    `secateur.prune`; with None, means and variances are corrected for fitted compensations only.
    """

    model: nn.Module
    masks: Masks
    groups: Sequence[Group]
    data: Dataset
    criterion: str
    options: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    correct: bool | None = None
    seed: int = 0

    def settings(self, group: Group, sparsity: float, compensation: str) -> dict[str, Any]:
        """Return the settings of the cut of a fraction of a group's units, as `prune` and the step prune take them."""
        fits = compensation == "reconstruct"
        return {
            "amount": sparsity,
            "granularity": "channel",
            "criterion": self.criterion,
            "scope": "local",
            "compensation": compensation,
            "correct": fits if self.correct is None else self.correct,
            "seed": self.seed,
            **alone(self.groups, group),
            **{
                name: self.options[name] for name in known(self.criterion, [compensation]) & set(self.options)
            },
        }

    def cut(self, group: Group, sparsity: float, compensation: str) -> Pruned:
        """Cut a fraction of a group's units. Raises `ModelError` if others are removed too."""
        pruned = prune(
            self.model,
            self.data.example(SAMPLES),
            masks=self.masks or None,
            data=self.calibration,
            **self.settings(group, sparsity, compensation),
        )
        for other in self.groups:
            if other.name != group.name and pruned.kept.get(other.name, other.units) < other.units:
                raise ModelError(
                    f"{group.name} can't be cut alone: {other.name} runs through the same tensors."
                )
        return pruned


def known(criterion: str, compensations: Sequence[str]) -> set[str]:
    """Return the options of a criterion and of compensations of channels."""
    return {
        *CRITERIA[criterion].options,
        *(o for c in compensations for o in COMPENSATIONS[c].options("channel")),
    }


@dataclass(frozen=True)
class Bench:
    """Settings of measurements: `devices`, the first of which runs the test, and batches of `batch_size`."""

    data: Dataset
    devices: Sequence[str]
    batch_size: int
    threads: int | None = None
    seconds: float = 0.2

    def measure(
        self, models: Mapping[str, nn.Module], accuracies: Mapping[str, float]
    ) -> dict[str, dict[str, Any]]:
        """Return the cost, accuracy and times of each model; `accuracies` holds known accuracies.

        Times are the median and the interquartile range of one pass in seconds, by device, the models in turns.
        """
        example, found = self.data.example(1), dict[str, dict[str, Any]]()
        for name, model in models.items():
            found[name] = {
                "parameters": sum(parameter.numel() for parameter in parameters_of(model)),
                "macs": cost(model, example).macs,
            }
        times = {device: self._times(models, device) for device in self.devices}
        for name, model in models.items():
            accuracy = accuracies.get(name)
            if accuracy is None:
                model.to(self.devices[0])
                accuracy = evaluate(model, self.data, progress=False)["top1"]
            found[name] |= {
                "accuracy": accuracy,
                "inference_time": {device: times[device][name][0] for device in self.devices},
                "inference_time_iqr": {device: times[device][name][1] for device in self.devices},
            }
            model.to("cpu")
        return found

    def _times(self, models: Mapping[str, nn.Module], device: str) -> dict[str, tuple[float, float]]:
        example = each(lambda tensor: tensor.to(device), self.data.example(1))
        for model in models.values():
            model.to(device)
        timed = compare_latency(models, example, (self.batch_size,), self.threads, self.seconds)
        return {name: (latency.median, latency.iqr) for name, (latency,) in timed.items()}


def check_device(name: str) -> None:
    """Raise `InputError` unless this machine has the device."""
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError):
        raise InputError(f"There is no device '{name}' here: choose another, such as cpu.") from None
