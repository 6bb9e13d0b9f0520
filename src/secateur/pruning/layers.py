"""Layer pruning: the least important residual blocks are bypassed.

A block can be bypassed if its input reaches its output by additions alone: its input becomes its output. Blocks are
found in the trace, among the items of `nn.Sequential` and `nn.ModuleList`; the score of a block is the mean of the
criterion over its weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, ModelError
from secateur.core.modules import named_parameters, submodule
from secateur.core.progress import track
from secateur.criteria import Calibration, measured, score
from secateur.graph import cost
from secateur.graph.couple import couple
from secateur.graph.cut import Cut
from secateur.graph.operators import operator_of
from secateur.graph.program import Program, Ref, refs
from secateur.graph.trace import trace
from secateur.measure.inputs import ModelInputs
from secateur.pruning.allocate_weights import keep_highest
from secateur.pruning.iterative import amounts, below
from secateur.pruning.result import Pruned, spent, stored_bytes
from secateur.pruning.settings import Settings
from secateur.shrink.apply import apply
from secateur.shrink.plan import Plan
from secateur.shrink.skip import bypass
from secateur.shrink.verify import verify
from secateur.sparsity.masks import Masks
from secateur.sparsity.targets import DTYPES, matches


class ResidualBlock(NamedTuple):
    """A residual block: its module path, and the number of items it returns, 0 for a single tensor."""

    path: str
    items: int


def blocks_of(model: nn.Module, program: Program) -> list[ResidualBlock]:
    """Return the residual blocks of a traced model, in order of execution."""
    runs = Counter(run.path for run in program.runs)
    found: list[ResidualBlock] = []
    for run in program.runs:
        parent, _, _ = run.path.rpartition(".")
        first = next(refs(run.outputs), None)
        if not run.path or runs[run.path] > 1 or run.first < 0 or first is None:
            continue
        if not isinstance(submodule(model, parent), nn.Sequential | nn.ModuleList):
            continue
        if isinstance(submodule(model, run.path), nn.Sequential | nn.ModuleList):
            continue
        items = len(run.outputs) if isinstance(run.outputs, tuple | list) else 0
        alone = items == 0 and isinstance(run.outputs, Ref)
        if (
            (alone or items)
            and len(list(refs(run.outputs))) == 1
            and _residual(program, run.first, first, run.nodes)
        ):
            found.append(ResidualBlock(run.path, items))
    paths = {block.path for block in found}
    outer = [b for b in found if not any(b.path.startswith(f"{path}.") for path in paths)]
    return sorted(outer, key=lambda block: next(r.nodes.start for r in program.runs if r.path == block.path))


def _residual(program: Program, source: int, target: int, nodes: range) -> bool:
    """Whether `source` reaches `target` by operators of `CARRIES` with at least one sum, and a product runs beside."""
    if program.values[source].shape != program.values[target].shape:
        return False
    reached, summed, product = {source}, set[int](), False
    for at in nodes:
        node = program.nodes[at]
        operator, operands = operator_of(node), set(refs(node.args))
        product |= operator.product is not None
        if (operator.adds or operator.keeps_stream) and operands & reached:
            reached.update(node.outputs[:1])
            if operator.adds or operands & summed:
                summed.update(node.outputs[:1])
    return target in summed and product


def skip_layers(model: nn.Module, example_inputs: ModelInputs | None, settings: Settings) -> Pruned:
    """Bypass exactly round(amount · blocks) of the selected blocks, the least important first; one is always kept.

    Raises `ModelError` for a model without residual blocks. See `secateur.prune`.
    """
    if example_inputs is None:
        raise InputError(
            "The granularity layer needs example inputs to find blocks: pass prune(model, inputs, …)."
        )
    amount, before = settings.requested, stored_bytes(model)
    *earlier, last = amounts(amount, settings.rounds, settings.schedule)
    if settings.data is not None:
        settings = replace(settings, data=Calibration.of(settings.data))
    program = trace(model, example_inputs)
    blocks = [
        block
        for block in blocks_of(model, program)
        if not any(matches(block.path, pattern) for pattern in settings.keep)
        and (not settings.layers or any(matches(block.path, pattern) for pattern in settings.layers))
    ]
    if len(blocks) < 2:
        raise ModelError(
            f"{type(model).__name__} has no two residual blocks to choose from: prune channels instead."
        )
    scores = _scores(model, blocks, example_inputs, settings)
    gone: dict[str, int] = {}
    for step in track(earlier, "rounds", len(earlier)) if earlier else ():
        kept = _kept(scores, step)
        if int((~kept).sum()) > len(gone):
            gone = _gone(blocks, kept)
            left = [block for block in blocks if block.path not in gone]
            now = _scores(apply(model, Plan(skipped=gone), share=True), left, example_inputs, settings)
            scores = below(scores, torch.zeros_like(scores).masked_scatter_(kept, now), kept)
    gone = _gone(blocks, _kept(scores, last))
    plan = Plan(skipped=gone)
    small = apply(model, plan, share=settings.inplace)
    whole, after = Cut.of(couple(program), []), Cut.of(couple(trace(small, example_inputs)), [])
    proof = None
    if settings.verify:
        proof = verify(model, small, whole, example_inputs, lambda large: bypass(large, gone))
    small = apply(model, plan, inplace=True) if settings.inplace else small
    return Pruned(
        small,
        Masks({}),
        requested=amount,
        achieved=len(gone) / len(blocks),
        choices=settings.choices("schedule") | {"rounds": len(earlier) + 1},
        plan=plan,
        verification=proof,
        units=(len(blocks), len(blocks) - len(gone)),
        parameters=(cost.parameters(whole), cost.parameters(after)),
        macs=(cost.macs(whole), cost.macs(after)),
        kept={block.path: int(block.path not in gone) for block in blocks},
        **spent(model, small, example_inputs, settings, before),
    )


def _kept(scores: Tensor, amount: float) -> Tensor:
    """Return the mask of kept blocks, boolean [blocks], at least one True."""
    return keep_highest(scores, min(round(amount * len(scores)), len(scores) - 1))


def _gone(blocks: Sequence[ResidualBlock], kept: Tensor) -> dict[str, int]:
    """Return the removed blocks, path → number of items returned."""
    return {block.path: block.items for block, stays in zip(blocks, kept.tolist(), strict=True) if not stays}


def _scores(
    model: nn.Module, blocks: Sequence[ResidualBlock], example_inputs: ModelInputs, settings: Settings
) -> Tensor:
    """Mean score of each block's weights, float64 [blocks]."""
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
