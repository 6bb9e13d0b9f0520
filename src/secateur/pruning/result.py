"""The result of a cut: the pruned model, the removed parts, and the bytes and latency saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy

from secateur.core.errors import InputError
from secateur.core.modules import parameters_of
from secateur.graph.groups import Groups
from secateur.graph.outline import branches, drawn
from secateur.measure.inputs import ModelInputs, batch_size
from secateur.measure.latency import compare_latency
from secateur.pruning.settings import Settings
from secateur.shrink.plan import Plan, named_tensors
from secateur.shrink.verify import Verification
from secateur.sparsity.masks import Masks

RETRIES_TOLD = 10.0
"""Seconds of retries from which on a summary tells of them."""


class Retry(NamedTuple):
    """A cut that was made again, as the code did not follow it: the seconds it took, and the places in the code."""

    seconds: float
    places: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Pruned:
    """The result of `prune`.

    `model` is the pruned model (same class), `requested` and `achieved` the fraction of the prunable weights or
    units to remove and removed, `choices` the settings by name, `skipped` the uncut tensors or groups with the reason.

    A cut of weights has `masks`, True for kept weights, and `redistributed`: tensor name → weights kept minus weights
    kept by the scope alone, for tensors changed so that none is empty.

    A cut of units has a `plan`, the `verification` of the smaller model against the large one without the removed
    units, pairs (before, after) of `units`, `parameters`, `macs`, `bytes` and, with `timed`, `milliseconds`, the
    `groups` of the units (None for whole layers), and `kept`, group name → number of units left. Its `masks` are the
    given ones, resized.

    `compensated` is the record of the compensation, `notes` are sentences on how the cut falls short of what was asked,
    `retries` the cuts before the last one, which the code did not follow.
    """

    model: nn.Module
    masks: Masks
    requested: float
    achieved: float
    choices: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    verification: Verification | None = None
    units: tuple[int, int] | None = None
    parameters: tuple[int, int] | None = None
    macs: tuple[int, int] | None = None
    bytes: tuple[int, int] | None = None
    milliseconds: tuple[float, float] | None = None
    groups: Groups | None = None
    kept: Mapping[str, int] = field(default_factory=dict)
    redistributed: Mapping[str, int] = field(default_factory=dict)
    compensated: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    retries: tuple[Retry, ...] = ()

    def __repr__(self) -> str:
        removed = f"{self.achieved:.2%} of the {self._noun}s removed"
        pairs = (
            [] if self.parameters is None else [f"{self.parameters[0]:,} → {self.parameters[1]:,} parameters"]
        )
        proof = [] if self.verification is None else [f"verified to {self.verification.error:.0e}"]
        told = ", ".join([removed, *pairs, *proof])
        return f"Pruned({type(self.model).__name__}, {told}; see .summary() and .tree())"

    @property
    def _noun(self) -> str:
        return str(self.choices["granularity"]) if self.plan is not None else "weight"

    def tree(self) -> str:
        """Return a text: every group with its tensors, or every tensor or block, and how much of it is left."""
        title = repr(self).partition(";")[0].removeprefix("Pruned(")
        if self.groups is not None:
            return drawn(title, branches(self.groups.coupling, self.groups, self.kept))
        if self.plan is not None:
            left = [(f"{path}: {'stays' if kept else 'left out'}", ()) for path, kept in self.kept.items()]
        else:
            left = [
                (f"{n}: {int(m.count_nonzero()):,} of {m.numel():,} weights", ())
                for n, m in self.masks.items()
            ]
        return drawn(
            title, [*left, *((f"{name}: left alone, {why}", ()) for name, why in self.skipped.items())]
        )

    def summary(self) -> str:
        """Return a text of a few lines: the removed weights or units, by tensor or group."""
        lines = [
            f"{self.choices['granularity']} pruning by {self.choices['criterion']}, scope {self.choices['scope']}",
        ]
        lines += self._smaller() if self.plan is not None else self._sparser()
        width = max((len(name) for name in self.skipped), default=0)
        lines += [f"  {name:<{width}}  left alone: {reason}" for name, reason in self.skipped.items()]
        return "\n".join([*lines, *self.notes, *self._compensation_lines(), *self._retry_lines()])

    def _retry_lines(self) -> list[str]:
        """Return a line for each retry with its places, if they took long together."""
        total = sum(retry.seconds for retry in self.retries)
        if total < RETRIES_TOLD:
            return []
        lines = [f"{total:.0f} s went into {len(self.retries)} cuts that the code did not follow, at:"]
        for seconds, places in self.retries:
            more = f", and {len(places) - 3} more" if len(places) > 3 else ""
            lines.append(f"  {seconds:>8.1f} s  {', '.join(places[:3])}{more}")
        return lines

    def _compensation_lines(self) -> list[str]:
        record = self.compensated
        done = [f"{len(record[what])} {what}" for what in ("layers", "groups") if what in record]
        if "corrected" in record:
            done.append(f"{record['corrected']} normalisations and biases corrected")
        lines = [f"compensation {self.choices['compensation']}: {', '.join(done)}"] if done else []
        lines += [f"  {name}  not made up for: {reason}" for name, reason in record.get("left", {}).items()]
        return lines + [f"  not corrected: {record[key]}" for key in ("not corrected",) if key in record]

    def _sparser(self) -> list[str]:
        parameters = sum(parameter.numel() for parameter in parameters_of(self.model))
        lines = [
            f"removed {self.masks.pruned:,} of {self.masks.total:,} prunable weights "
            f"({self.achieved:.2%}, requested {self.requested:.2%}); the model has {parameters:,} parameters",
        ]
        width = max(len(name) for name in self.masks)
        for name, mask in self.masks.items():
            kept = int(mask.count_nonzero())
            lines.append(
                f"  {name:<{width}}  kept {kept:>12,} of {mask.numel():>12,}  "
                f"({1 - kept / max(1, mask.numel()):.2%} cut)"
            )
        moved = ", ".join(f"{name} {count:+d}" for name, count in self.redistributed.items())
        return [*lines, *([f"  so that no tensor is empty: {moved}"] if moved else [])]

    def _smaller(self) -> list[str]:
        assert self.plan is not None
        assert self.parameters is not None
        assert self.macs is not None
        lines = [f"removed {self.achieved:.2%} of the units that may go (requested {self.requested:.2%})"]
        for what, pair in (("parameters", self.parameters), ("MACs", self.macs), ("bytes", self.bytes)):
            if pair is not None:
                before, after = pair
                lines.append(f"  {what:<12}{before:>16,} → {after:>16,}  (×{after / max(1, before):.3f})")
        if self.milliseconds is not None:
            slow, fast = self.milliseconds
            lines.append(f"  {'ms a pass':<12}{slow:>16.3f} → {fast:>16.3f}  (×{fast / slow:.3f})")
        lines.append(f"  verified: {self.verification or 'not asked for'}")
        changed = len(self.plan.attributes), len(self.plan.overrides), len(self.plan.standins)
        if any(changed):
            lines.append(
                f"  in code: {changed[0]} attributes changed, {changed[1]} sizes overridden, "
                f"{changed[2]} attention forwards replaced"
            )
        if self.plan.overrides:
            lines.append(
                f"  overridden in {', '.join(self.plan.methods)}: torch.fx and torch.jit.script read the code and miss "
                "it; torch.export, torch.compile, torch.jit.trace and ONNX follow"
            )
        return lines


def stored_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's tensors, shared ones counted once, lazy ones, which have no size yet, as none."""
    tensors = (tensor for tensor in named_tensors(model).values() if not is_lazy(tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def spent(
    large: nn.Module, small: nn.Module, example_inputs: ModelInputs, settings: Settings, before: int
) -> dict[str, Any]:
    """Return fields of `Pruned`: bytes, `before` and now, and with `timed` the milliseconds of a pass of each."""
    times = None
    if settings.timed:
        if settings.inplace:
            raise InputError("Timing compares the model with the smaller one: leave inplace out.")
        both = compare_latency(
            {"large": large, "small": small}, example_inputs, (batch_size(example_inputs),)
        )
        times = both["large"][0].median * 1e3, both["small"][0].median * 1e3
    return {"bytes": (before, stored_bytes(small)), "milliseconds": times}
