"""The smaller model of a cut: planned, applied and proved."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from secateur.core.errors import VerificationError
from secateur.core.modules import submodule
from secateur.graph.attention import attention_of
from secateur.graph.cut import Cut
from secateur.measure.examples import Examples
from secateur.measure.inputs import ModelInputs
from secateur.shrink.apply import apply
from secateur.shrink.mismatch import misfits, products_of_activations, renumbered
from secateur.shrink.plan import Plan, named_tensors
from secateur.shrink.resize import overridden, settle
from secateur.shrink.verify import Verification, verify


class Misfit(Exception):
    """Raised where the code does not follow a cut at these calls (number, reason)."""

    def __init__(self, failures: list[tuple[int, str]]) -> None:
        self.failures = failures


def make(
    model: nn.Module,
    cut: Cut,
    example_inputs: ModelInputs | Examples,
    check: bool,
    *,
    share: bool = True,
) -> tuple[nn.Module, Plan, Verification | None]:
    """Make the smaller model of a cut, and prove it. Raises `Misfit` where the model's code does not follow.

    With `share`, the smaller model shares with the large one what can't be copied.
    """
    plan, failures = plan_for(model, cut)
    if failures:
        raise Misfit(failures)
    small = apply(model, plan, share=share)
    proof = partial(verify, model, cut=cut, example_inputs=example_inputs)
    if check:
        try:
            return small, plan, proof(small)
        except VerificationError:
            failures = misfits(small, cut, example_inputs) or products_of_activations(cut)
            if (other := _with_numbers(model, small, plan, cut, example_inputs, share)) is not None:
                with suppress(VerificationError):
                    return *other, proof(other[0])
            if failures:
                raise Misfit(failures) from None
            raise
    if failures := misfits(small, cut, example_inputs):
        if (other := _with_numbers(model, small, plan, cut, example_inputs, share)) is None or misfits(
            other[0], cut, example_inputs
        ):
            raise Misfit(failures)
        return *other, None
    return small, plan, None


def _with_numbers(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    cut: Cut,
    example_inputs: ModelInputs | Examples,
    share: bool,
) -> tuple[nn.Module, Plan] | None:
    """Return the smaller model and its plan with the large one's numbers where it made others; None if it did not."""
    settlement = overridden(cut, renumbered(small, cut, example_inputs))
    if settlement.failures or not settlement.overrides:
        return None
    plan = replace(plan, overrides=(*plan.overrides, *settlement.overrides))
    return apply(model, plan, share=share), plan


def plan_for(model: nn.Module, cut: Cut) -> tuple[Plan, list[tuple[int, str]]]:
    """Turn a cut into a plan: what every tensor keeps and what the code must be told; and what can't be."""
    kept = cut.kept_indices()
    if not kept:
        return Plan(), []
    settlement = settle(cut)
    tensors = named_tensors(model)
    return Plan(
        kept=kept,
        shapes={name: tuple(tensors[name].shape) for name in kept},
        attributes={**settlement.attributes, **_bare_norms(model, cut)},
        overrides=tuple(settlement.overrides),
        standins=tuple(attention_of(model, cut.coupling.program)),
    ), settlement.failures


def _bare_norms(model: nn.Module, cut: Cut) -> dict[str, int]:
    """Return the widths of normalisations that hold no tensor to read them from, where they change."""
    widths = {}
    for run in cut.coupling.program.runs:
        module = submodule(model, run.path)
        if isinstance(module, _NormBase) and not module.state_dict() and run.first >= 0:
            width = cut.shape(run.first)[1]
            if width != module.num_features:
                widths[f"{run.path}:num_features"] = width
    return widths
