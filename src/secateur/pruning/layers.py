"""Layer pruning: the least important residual blocks are left out.

Blocks and branches (`blocks`) are found in the trace, among the items of `nn.Sequential`, `nn.ModuleList` and
`nn.ModuleDict`; the score of a block is the mean of the criterion over its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from secateur.core.computed import plain
from secateur.core.errors import InputError, ModelError, VerificationError, reason_of
from secateur.core.modules import named_modules, named_parameters
from secateur.core.progress import track
from secateur.criteria import Calibration, measured, score
from secateur.graph import cost
from secateur.graph.couple import couple
from secateur.graph.cut import Cut
from secateur.graph.program import Program
from secateur.graph.trace import trace
from secateur.measure.examples import Examples
from secateur.measure.inputs import ModelInputs
from secateur.pruning.allocate_weights import keep_highest
from secateur.pruning.blame import accusing, narrowed
from secateur.pruning.blocks import ResidualBlock, blocks_of, read_elsewhere
from secateur.pruning.iterative import amounts, below
from secateur.pruning.result import Pruned, spent, stored_bytes
from secateur.pruning.settings import Settings
from secateur.shrink.apply import apply
from secateur.shrink.plan import Plan
from secateur.shrink.skip import bypass
from secateur.shrink.verify import Verification, verify
from secateur.sparsity.masks import Masks
from secateur.sparsity.targets import DTYPES, matches


def skip_layers(model: nn.Module, example_inputs: ModelInputs | None, settings: Settings) -> Pruned:
    """Leave out exactly round(amount · blocks) of the selected blocks, the least important first.

    One is always kept, unless `layers` names the blocks. Raises `ModelError` for a model without residual blocks,
    `InputError` for a name that is none of a block. See `secateur.prune`.
    """
    if example_inputs is None:
        raise InputError(
            "The granularity layer needs example inputs to find blocks: pass prune(model, inputs, …)."
        )
    before = stored_bytes(model)
    if settings.data is not None:
        settings = replace(settings, data=Calibration.of(settings.data))
    examples = Examples.of(model, example_inputs)
    program = trace(model, examples.first)
    found = blocks_of(model, program)
    locked = {
        block.path: f"its {reason}"
        for block in found
        if (reason := read_elsewhere(model, program, block)) is not None
    }
    while True:
        blocks = _chosen(model, found, locked, settings)
        plan = _plan(model, blocks, examples.first, settings)
        small = apply(model, plan, share=settings.inplace)
        failing = _failing(model, small, blocks, plan, examples)
        if not failing:
            break
        locked |= failing
    return _result(model, small, program, blocks, plan, locked, examples, settings, before)


def _chosen(
    model: nn.Module, found: Sequence[ResidualBlock], locked: dict[str, str], settings: Settings
) -> list[ResidualBlock]:
    """Return the blocks that may go, and that `keep` and `layers` select."""
    _check_names(model, found, locked, settings)
    blocks = [
        block
        for block in found
        if block.path not in locked
        and not any(matches(name, pattern) for name in _inside(model, block) for pattern in settings.keep)
        and (not settings.layers or any(matches(block.path, pattern) for pattern in settings.layers))
    ]
    if len(blocks) < (1 if settings.layers else 2):
        because = "".join(f" ({path} stays: {reason})" for path, reason in list(locked.items())[:1])
        raise ModelError(
            f"{type(model).__name__} has no two residual blocks to choose from{because}: prune channels instead."
        )
    return blocks


def _inside(model: nn.Module, block: ResidualBlock) -> list[str]:
    """Return the path of a block and the names of its parameters: who keeps one of them keeps the block."""
    return [block.path, *(name for name, _ in named_parameters(model) if name.startswith(f"{block.path}."))]


def _check_names(
    model: nn.Module, found: Sequence[ResidualBlock], locked: dict[str, str], settings: Settings
) -> None:
    """Raise `InputError` for a name in `layers` that is no block or one that stays, or in `keep` that is nothing."""
    paths = [block.path for block in found]
    known = [
        *paths,
        *(path for path, _ in named_modules(model)),
        *(name for name, _ in named_parameters(model)),
    ]
    shown = ", ".join(paths[:8]) + (", …" if len(paths) > 8 else "")
    for pattern in settings.layers:
        meant = [path for path in paths if matches(path, pattern)]
        if paths and not meant:
            raise InputError(f"No residual block matches '{pattern}': the blocks are {shown}.")
        if meant and all(path in locked for path in meant):
            raise InputError(f"The block {meant[0]} can't be left out: {locked[meant[0]]}.")
    for pattern in settings.keep:
        if not any(matches(name, pattern) for name in known):
            raise InputError(f"No layer matches '{pattern}': the residual blocks are {shown}.")


def _plan(
    model: nn.Module, blocks: Sequence[ResidualBlock], example_inputs: ModelInputs, settings: Settings
) -> Plan:
    """Score the blocks, in as many rounds as the settings say, and return the plan without the lowest."""
    *earlier, last = amounts(settings.requested, settings.rounds, settings.schedule)
    least = 0 if settings.layers else 1
    scores = _scores(model, blocks, example_inputs, settings)
    plan = Plan()
    for step in track(earlier, "rounds", len(earlier)) if earlier else ():
        kept = _kept(scores, step, least)
        if int((~kept).sum()) > len(plan.skipped):
            plan = _without(blocks, kept)
            left = [block for block in blocks if block.path not in plan.skipped]
            now = _scores(apply(model, plan, share=True), left, example_inputs, settings)
            scores = below(scores, torch.zeros_like(scores).masked_scatter_(kept, now), kept)
    return _without(blocks, _kept(scores, last, least))


def _kept(scores: Tensor, amount: float, least: int) -> Tensor:
    """Return the mask of kept blocks, boolean [blocks], at least so many True."""
    return keep_highest(scores, min(round(amount * len(scores)), len(scores) - least))


def _without(blocks: Sequence[ResidualBlock], kept: Tensor) -> Plan:
    """Return the plan that leaves out all blocks but those kept."""
    gone = [block for block, stays in zip(blocks, kept.tolist(), strict=True) if not stays]
    return Plan(
        skipped={block.path: block.items for block in gone},
        factors={block.path: block.factor for block in gone if block.factor != 1},
    )


def _failing(
    model: nn.Module,
    small: nn.Module,
    blocks: Sequence[ResidualBlock],
    plan: Plan,
    examples: Examples,
) -> dict[str, str]:
    """Return the blocks without which the model's code does not run, with the reason; none where `small` runs."""
    try:
        trace(small, examples)
    except ModelError as error:
        gone = [block for block in blocks if block.path in plan.skipped]
        failing = {block.path: reason for block in gone if (reason := _fails(model, block, examples))}
        if failing:
            return failing
        raise ModelError(
            f"{type(model).__name__} does not run without {', '.join(plan.skipped)} ({reason_of(error)}): keep some of "
            "them with keep=."
        ) from error
    return {}


def _fails(model: nn.Module, block: ResidualBlock, examples: Examples) -> str:
    """Return why the model does not run without one block; empty where it does."""
    alone = _without([block], torch.tensor([False]))
    try:
        trace(apply(model, alone, share=True), examples)
    except ModelError as error:
        reason = reason_of(error.__cause__ or error)
        return f"the code reads of it what goes with it ({reason})"
    return ""


def _result(
    model: nn.Module,
    small: nn.Module,
    program: Program,
    blocks: Sequence[ResidualBlock],
    plan: Plan,
    locked: dict[str, str],
    examples: Examples,
    settings: Settings,
    before: int,
) -> Pruned:
    """Prove the smaller model and return it with its figures."""
    whole, after = Cut.of(couple(program), []), Cut.of(couple(trace(small, examples.first)), [])
    proof = None
    if settings.verify:
        proof = _proved(model, small, whole, blocks, plan, examples)
    small = apply(model, plan, inplace=True) if settings.inplace else small
    gone = len(plan.skipped)
    return Pruned(
        small,
        Masks({}),
        requested=settings.requested,
        achieved=gone / len(blocks),
        choices=settings.choices("schedule") | {"rounds": settings.rounds or 1},
        skipped=locked,
        plan=plan,
        verification=proof,
        units=(len(blocks), len(blocks) - gone),
        parameters=(cost.parameters(whole), cost.parameters(after)),
        macs=(cost.macs(whole), cost.macs(after)),
        kept={block.path: int(block.path not in plan.skipped) for block in blocks},
        **spent(model, small, examples.first, settings, before),
    )


def _proved(
    model: nn.Module,
    small: nn.Module,
    whole: Cut,
    blocks: Sequence[ResidualBlock],
    plan: Plan,
    examples: Examples,
) -> Verification:
    """Compare the smaller model with the large one with the same blocks bypassed; a block at fault is named."""

    def proof(part: Plan, small: nn.Module) -> Verification:
        return verify(model, small, whole, examples, lambda large: bypass(large, part.skipped, part.factors))

    def fails(names: Sequence[str]) -> bool:
        part = _without(blocks, torch.tensor([block.path not in names for block in blocks]))
        try:
            proof(part, apply(model, part, share=True))
        except VerificationError:
            return True
        return False

    try:
        return proof(plan, small)
    except VerificationError as error:
        raise accusing(error, "block", narrowed([*plan.skipped], fails), "") from error


def _scores(
    model: nn.Module, blocks: Sequence[ResidualBlock], example_inputs: ModelInputs, settings: Settings
) -> Tensor:
    """Mean score of the weights that each block works with, float64 [blocks]."""
    with plain(model):
        return _held_scores(model, blocks, example_inputs, settings)


def _held_scores(
    model: nn.Module, blocks: Sequence[ResidualBlock], example_inputs: ModelInputs, settings: Settings
) -> Tensor:
    criterion, seed, options = settings.criterion, settings.seed, settings.options
    tensors = {
        name: tensor
        for name, tensor in named_parameters(model)
        if tensor.dtype in DTYPES and any(name.startswith(f"{block.path}.") for block in blocks)
    }
    found = measured(
        criterion, model, tensors, settings.data, example_inputs=example_inputs, seed=seed, **options
    )
    weights = score(criterion, tensors, seed=seed, granularity="layer", measured=found, **options)
    means = []
    for block in blocks:
        own = [tensor for name, tensor in weights.items() if name.startswith(f"{block.path}.")]
        total = sum(float(tensor.sum(dtype=torch.float64)) for tensor in own)
        means.append(total / max(1, sum(tensor.numel() for tensor in own)))
    return torch.tensor(means, dtype=torch.float64)
