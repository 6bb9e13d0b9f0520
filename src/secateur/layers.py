"""Prune whole layers: residual blocks that change little are bypassed.

A block may go where its input reaches its output by additions alone: without the block, the input is handed on. The
blocks are found in the trace, among the items of `nn.Sequential` and `nn.ModuleList`; their score is the mean of the
criterion over their weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.allocate import keep_highest
from secateur.criteria import Batches, measured, score
from secateur.errors import ModelError
from secateur.graph import cost
from secateur.graph.cost import MACS
from secateur.graph.couple import couple
from secateur.graph.cut import Cut
from secateur.graph.program import Program, Ref, refs
from secateur.graph.trace import trace
from secateur.measure.inputs import Inputs
from secateur.shrink.apply import apply
from secateur.shrink.plan import Plan
from secateur.shrink.skip import bypass
from secateur.shrink.verify import Verification, verify
from secateur.targets import DTYPES, matches

CARRIES = {
    "add", "clone", "detach", "alias", "_to_copy", "contiguous", "relu", "native_layer_norm", "dropout", "view",
    "_unsafe_view", "permute", "transpose",
}  # fmt: skip
"""Operators through which a residual stream stays what it is, or is normalised."""


class Block(NamedTuple):
    """A residual block: where it is, and how many items it returns, 0 for a tensor alone."""

    path: str
    items: int


class Skipped(NamedTuple):
    """The model without some blocks, the plan, the proof, all blocks, and parameters and MACs before and after."""

    model: nn.Module
    plan: Plan
    verification: Verification | None
    blocks: tuple[Block, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int]


def blocks_of(model: nn.Module, program: Program) -> list[Block]:
    """Return the residual blocks of a traced model, in the order they run."""
    runs = Counter(run.path for run in program.runs)
    found: list[Block] = []
    for run in program.runs:
        parent, _, _ = run.path.rpartition(".")
        first = next(refs(run.outputs), None)
        if not run.path or runs[run.path] > 1 or run.first < 0 or first is None:
            continue
        if not isinstance(model.get_submodule(parent), nn.Sequential | nn.ModuleList):
            continue
        if isinstance(model.get_submodule(run.path), nn.Sequential | nn.ModuleList):
            continue
        items = len(run.outputs) if isinstance(run.outputs, tuple | list) else 0
        alone = items == 0 and isinstance(run.outputs, Ref)
        if (
            (alone or items)
            and len(list(refs(run.outputs))) == 1
            and _residual(program, run.first, first, run.nodes)
        ):
            found.append(Block(run.path, items))
    paths = {block.path for block in found}
    outer = [b for b in found if not any(b.path.startswith(f"{path}.") for path in paths)]
    return sorted(outer, key=lambda block: next(r.nodes.start for r in program.runs if r.path == block.path))


def _residual(program: Program, source: int, target: int, nodes: range) -> bool:
    """Whether `source` reaches `target` by carrying operators and at least one sum, beside a product."""
    if program.values[source].shape != program.values[target].shape:
        return False
    reached, summed, product = {source}, set[int](), False
    for at in nodes:
        node = program.nodes[at]
        product |= node.op in MACS
        operands = set(refs(node.args))
        if node.op.rstrip("_") in CARRIES and operands & reached:
            reached.update(node.outputs[:1])
            if node.op.startswith("add") or operands & summed:
                summed.update(node.outputs[:1])
    return target in summed and product


def skip_layers(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    amount: float,
    criterion: str,
    keep: Sequence[str],
    layers: Sequence[str],
    check: bool,
    data: Batches | None,
    seed: int,
    inplace: bool,
    options: Mapping[str, Any],
) -> Skipped:
    """Bypass the least important blocks: exactly round(amount · blocks) of those that may go; one always stays.

    Raises `ModelError` for a model without residual blocks.
    """
    program = trace(model, example_inputs)
    blocks = [
        block
        for block in blocks_of(model, program)
        if not any(matches(block.path, pattern) for pattern in keep)
        and (not layers or any(matches(block.path, pattern) for pattern in layers))
    ]
    if len(blocks) < 2:
        raise ModelError(
            f"{type(model).__name__} has no two residual blocks to choose from: prune channels instead."
        )
    scores = _scores(model, blocks, criterion, example_inputs, data, seed, options)
    kept = keep_highest(scores, min(round(amount * len(blocks)), len(blocks) - 1))
    gone = {block.path: block.items for block, stays in zip(blocks, kept.tolist(), strict=True) if not stays}
    plan = Plan(skipped=gone)
    small = apply(model, plan)
    whole, after = Cut.of(couple(program), []), Cut.of(couple(trace(small, example_inputs)), [])
    proof = None
    if check:
        proof = verify(model, small, whole, example_inputs, lambda large: bypass(large, gone))
    return Skipped(
        apply(model, plan, inplace=True) if inplace else small,
        plan,
        proof,
        tuple(blocks),
        (cost.parameters(whole), cost.parameters(after)),
        (cost.macs(whole), cost.macs(after)),
    )


def _scores(
    model: nn.Module,
    blocks: Sequence[Block],
    criterion: str,
    example_inputs: Inputs,
    data: Batches | None,
    seed: int,
    options: Mapping[str, Any],
) -> Tensor:
    """Mean score of each block's weights, float64 [blocks]."""
    tensors = {name: tensor for name, tensor in model.named_parameters() if tensor.dtype in DTYPES}
    tensors = {
        name: tensor for name, tensor in tensors.items() if any(name.startswith(f"{b.path}.") for b in blocks)
    }
    quantities = measured(
        criterion, model, tensors, data, example_inputs=example_inputs, seed=seed, **options
    )
    weights = score(criterion, tensors, seed=seed, granularity="layer", measured=quantities, **options)
    means = []
    for block in blocks:
        own = [tensor for name, tensor in weights.items() if name.startswith(f"{block.path}.")]
        total = sum(float(tensor.sum(dtype=torch.float64)) for tensor in own)
        means.append(total / max(1, sum(tensor.numel() for tensor in own)))
    return torch.tensor(means, dtype=torch.float64)
