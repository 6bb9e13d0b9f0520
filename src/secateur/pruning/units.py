"""Structured pruning: coupled groups of units are scored, allocated, removed from the tensors and verified.

`prune_units` is the pipeline: trace → couple → score → spread → settle → apply → verify. If the model's own code does
not follow a cut, the groups at that line are locked, with the reason, and the cut is made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.compensation import Case
from secateur.core.errors import InputError, ModelError, VerificationError
from secateur.core.modules import named_modules
from secateur.core.progress import track
from secateur.criteria import Calibration
from secateur.graph import cost
from secateur.graph.couple import couple
from secateur.graph.cut import Cut
from secateur.graph.groups import Group, Groups, group
from secateur.graph.naming import named, shared, touched
from secateur.graph.other_sizes import trace_sizes
from secateur.graph.program import Program
from secateur.graph.trace import trace
from secateur.importance import unit_scores
from secateur.measure.examples import Examples
from secateur.measure.inputs import ModelInputs
from secateur.measure.latency import latency
from secateur.pruning.allocate_units import UnitMasks, spread
from secateur.pruning.blame import of_groups
from secateur.pruning.budget import Budget, LatencyBudget, meet, meet_latency, per_cost
from secateur.pruning.compensate import make_up
from secateur.pruning.dead import dead_units
from secateur.pruning.exact import named_units, own_amounts
from secateur.pruning.iterative import Goal, goals, scored_again
from secateur.pruning.masked_units import masked_units, ranked_first
from secateur.pruning.result import Pruned, Retry, spent, stored_bytes
from secateur.pruning.settings import DEAD, Settings
from secateur.shrink.apply import apply
from secateur.shrink.make import Misfit, make
from secateur.shrink.plan import named_tensors
from secateur.sparsity.granularity import Granularity
from secateur.sparsity.masks import Masks
from secateur.sparsity.targets import check_finite, require_module

LOCK_ATTEMPTS = 32
"""Largest number of attempts, each of which locks the places in the code that do not follow the cut."""


def prune_units(model: nn.Module, example_inputs: ModelInputs | None, settings: Settings) -> Pruned:
    """Remove the least important units of `model`, or of a copy; see `secateur.prune`."""
    require_module(model)
    kind, goal = settings.granularity.kind, settings.goal
    if example_inputs is None:
        raise InputError(
            f"The granularity {kind} needs example inputs to find what belongs together: "
            "pass prune(model, example_inputs, …)."
        )
    *earlier, last = goals(goal, settings.rounds, settings.schedule)
    before = stored_bytes(model)
    Masks(settings.masks or {}).of(model)
    _require_values(model)
    check_finite({name: t for name, t in named_tensors(model).items() if isinstance(t, nn.Parameter)})
    examples = Examples.of(model, example_inputs)
    example_inputs = examples.first
    if settings.other_sizes:
        program, examples = trace_sizes(model, examples)
    else:
        program = trace(model, examples, training=True)
    # kept for another pass: groups are scored again after a place in the code is locked
    data = None if settings.data is None else Calibration.of(settings.data)

    def score(model: nn.Module, groups: Groups, wanted: Sequence[Group]) -> dict[str, Tensor]:
        scores = unit_scores(
            model,
            wanted,
            settings.criterion,
            coupling=groups.coupling,
            example_inputs=example_inputs,
            data=data,
            seed=settings.seed,
            reduction=settings.reduction,
            normalization=settings.normalization,
            **settings.criterion_options,
        )
        scores = per_cost(groups, scores, goal) if settings.per_cost else scores
        return ranked_first(scores, masked_units(model, wanted))

    locks: list[tuple[int, str]] = []
    retries: list[Retry] = []
    for _ in range(LOCK_ATTEMPTS):
        started = perf_counter()
        groups = group(couple(program, locks))
        chosen = _chosen(groups, settings)
        if not chosen:
            raise ModelError(_nothing(groups, settings))
        exact = None if settings.units is None else named_units(groups, chosen, settings.units)
        if exact is not None:
            chosen = [each for each in chosen if each.name in exact]
        dead = dead_units(model, example_inputs, groups, chosen) if settings.amount == DEAD else None
        exact = exact if dead is None else dead.masks
        if settings.amounts is not None:
            own = own_amounts(groups, chosen, settings.amounts)
            chosen = [each for each in chosen if each.name in own]
            *earlier, last = goals(own, settings.rounds, settings.schedule)
        scores = score(model, groups, chosen)
        chosen = [each for each in chosen if each.name in scores]
        if not chosen:
            raise ModelError(
                f"The criterion {settings.criterion} finds nothing to look at in any group: choose another."
            )
        cutter = _GroupCutter(groups, chosen, scores, settings.scope, settings.max_amount, settings.round_to)
        try:
            gone = 0
            for step in track(earlier, "rounds", len(earlier)) if earlier else ():
                cut = _reaching(step, cutter, model, examples)
                if len(cut.removed) > gone:
                    small, plan, _ = make(model, cut, examples, check=False)
                    scores = scored_again(small, plan, cut, chosen, cutter.scores, score, examples)
                    cutter, gone = replace(cutter, scores=scores), len(cut.removed)
            cut = cutter.cut(exact) if exact is not None else _reaching(last, cutter, model, examples)
            small, plan, proof = make(model, cut, examples, settings.verify, share=settings.inplace)
            break
        except Misfit as misfit:
            failures = misfit.failures
        except VerificationError as error:
            raise of_groups(error, model, groups, cut, examples) from error
        retries.append(Retry(perf_counter() - started, _places(program, failures)))
        if set(failures) <= set(locks):
            raise ModelError(f"{type(model).__name__} can't be made smaller: {failures[0][1]}.")
        locks += failures
    else:
        raise ModelError(f"{type(model).__name__} can't be made smaller: {locks[-1][1]}.")
    whole, units = Cut.of(groups.coupling, []), sum(each.units for each in chosen)
    achieved = len(cut.removed) / max(1, units)
    masks = Masks({name: plan.slice(name, mask) for name, mask in (settings.masks or {}).items()})
    case = Case(
        model,
        small,
        program,
        data,
        settings.seed,
        settings.corrects,
        cut=cut,
        plan=plan,
        groups=tuple(chosen),
        scores=cutter.scores,
    )
    compensated = make_up(case, groups.coupling, settings)
    masks.apply_(small)
    notes: tuple[str, ...] = ()
    if dead is not None:
        dead.fold(small, plan)
        notes = (dead.proved(model, small, example_inputs),)
    if settings.inplace:
        small = _with_values_of(apply(model, plan, inplace=True), small)
    return Pruned(
        small,
        masks,
        requested=_requested(settings, last, chosen, achieved),
        achieved=achieved,
        choices=settings.choices(
            "budget", "units", "max_amount", "round_to", "reduction", "normalization", "schedule"
        )
        | {"rounds": len(earlier) + 1},
        skipped=groups.left,
        plan=plan,
        verification=proof,
        units=(units, units - len(cut.removed)),
        parameters=(cost.parameters(whole), cost.parameters(cut)),
        macs=(cost.macs(whole), cost.macs(cut)),
        groups=groups,
        kept={each.name: int(cut.alive[each.roots].sum()) for each in groups},
        compensated=compensated,
        retries=tuple(retries),
        notes=notes,
        **spent(model, small, example_inputs, settings, before),
    )


def _places(program: Program, failures: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    """Return the calls at which the code did not follow a cut, in words, each once."""
    calls = (program.calls[number] for number, _ in failures)
    return tuple(
        dict.fromkeys(f"{call.name} in {call.module or 'the model'} ({call.source})" for call in calls)
    )


def _requested(settings: Settings, goal: Goal, chosen: Sequence[Group], achieved: float) -> float:
    """Return the fraction of the units that was asked for: of a budget or of named units that achieved."""
    if isinstance(goal, Mapping):
        return sum(goal[each.name] * each.units for each in chosen) / sum(each.units for each in chosen)
    return achieved if settings.amount in (None, DEAD) else settings.requested


@dataclass(frozen=True)
class _GroupCutter:
    """A `Cutter` over scored groups."""

    groups: Groups
    chosen: Sequence[Group]
    scores: Mapping[str, Tensor]
    scope: str
    max_amount: float
    round_to: int | None

    def masks(self, amount: float | Mapping[str, float]) -> UnitMasks:
        return spread(
            self.chosen, self.scores, amount, self.scope, max_amount=self.max_amount, round_to=self.round_to
        )

    def cut(self, masks: UnitMasks) -> Cut:
        units = [(each, masks[each.name].numpy()) for each in self.chosen]
        return Cut.of(self.groups.coupling, units)

    def restored(self, masks: UnitMasks) -> Iterator[UnitMasks]:
        step = self.round_to or 1
        for name, mask in masks.items():
            gone = self.scores[name].masked_fill(mask, -torch.inf)
            if int((~mask).sum()) >= step:
                more = mask.clone()
                more[gone.topk(step).indices] = True
                yield {**masks, name: more}


def _reaching(goal: Goal, cutter: _GroupCutter, model: nn.Module, examples: Examples) -> Cut:
    """Return the cut that reaches an amount or a budget."""
    if isinstance(goal, LatencyBudget):
        return meet_latency(goal, cutter, partial(_milliseconds, model, examples, goal.batch))
    return meet(goal, cutter) if isinstance(goal, Budget) else cutter.cut(cutter.masks(goal))


@torch.no_grad()
def _with_values_of(model: nn.Module, other: nn.Module) -> nn.Module:
    """Give a model the values of another of the same shapes, and return it."""
    for name, tensor in named_tensors(other).items():
        named_tensors(model)[name].copy_(tensor)
    return model


def _milliseconds(model: nn.Module, examples: Examples, batch: int, cut: Cut) -> float:
    """Measure one pass of the smaller model of a cut."""
    small, _, _ = make(model, cut, examples, check=False)
    return latency(small, examples.first, (batch,), seconds=1.0)[0].median * 1e3


def _require_values(model: nn.Module) -> None:
    """Raise `ModelError` for a model whose tensors have no values yet, or whose code can't be followed."""
    for name, module in named_modules(model):
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{name or 'The model'} is a ScriptModule, whose code can't change: prune the module it was made from."
            )
    for name, tensor in named_tensors(model).items():
        if is_lazy(tensor) or tensor.is_meta:
            raise ModelError(f"{name} has no values yet: load weights, or run a lazy module once.")


def _chosen(groups: Groups, settings: Settings) -> list[Group]:
    """Return the free groups that the granularity, `keep` and `layers` select."""
    kept = [each.name for each in touched(groups, settings.keep)]
    chosen = named(groups, settings.layers) if settings.layers else groups.free
    heads = _of_heads(settings.granularity)
    return [each for each in chosen if each.name not in kept and (each.heads or not heads)]


def _of_heads(granularity: Granularity) -> bool:
    """Whether the units are attention heads alone."""
    return "heads" in granularity.elements


def _nothing(groups: Groups, settings: Settings) -> str:
    """Return the sentence of the reason for which no group can be cut."""
    granularity = settings.granularity
    if _of_heads(granularity) and not any(each.heads for each in groups):
        return "There is nothing to prune by head: the model has no attention heads that were found."
    part = shared(groups, settings.layers)
    if part is not None:
        return (
            f"There is nothing to prune by {granularity}: other layers make the units of {', '.join(settings.layers)} "
            f"as well; to cut them all, name the group, layers={part.name}."
        )
    because = next((f" ({name}: {reason})" for name, reason in groups.left.items()), "")
    return f"There is nothing to prune by {granularity}: every group is locked or left out{because}."
