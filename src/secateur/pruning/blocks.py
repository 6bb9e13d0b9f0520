"""Residual blocks of a traced model: what may be left out, and what stands in its place.

A *block* is a module whose input reaches its output by sums and factors alone, beside its product: without the product
it is its input times a factor c, 1 in x + f(x), 1/√2 in (x + f(x)) / √2. A *branch* is a module whose output only ever
goes into a sum with its own input, or a normalised or scaled one, in the code around it: without it, it is zero.
Normalisations that a stream runs through count as part of the block.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from secateur.core.modules import named_buffers, named_modules, named_parameters, submodule
from secateur.graph.coupling import argument
from secateur.graph.operators import Effect, operator_of
from secateur.graph.program import ModuleCall, Node, Program, Ref, refs

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules whose items may be residual blocks."""


class ResidualBlock(NamedTuple):
    """A residual block: its module path, the number of items it returns, 0 for a single tensor, and its factor.

    Without its product a block returns its first tensor times `factor`, a branch zeros of that shape.
    """

    path: str
    items: int
    factor: float = 1.0


def blocks_of(model: nn.Module, program: Program) -> list[ResidualBlock]:
    """Return the residual blocks and branches of a traced model, the outermost ones, in order of execution."""
    times = Counter(run.path for run in program.runs)
    readers = _readers(program)
    found: dict[str, tuple[int, ResidualBlock]] = {}
    for run in program.runs:
        returned = list(refs(run.outputs))
        if times[run.path] > 1 or run.first < 0 or len(returned) != 1 or not _is_item(model, run.path):
            continue
        factor = _without_product(model, program, run, returned[0], readers)
        items = len(run.outputs) if isinstance(run.outputs, tuple | list) else 0
        if factor is not None and (items or isinstance(run.outputs, Ref)):
            found[run.path] = run.nodes.start, ResidualBlock(run.path, items, factor)
    outer = [each for path, each in found.items() if not any(path.startswith(f"{p}.") for p in found)]
    return [block for _, block in sorted(outer, key=lambda each: each[0])]


def _is_item(model: nn.Module, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    return bool(name) and isinstance(submodule(model, parent), CONTAINERS)


def _without_product(
    model: nn.Module, program: Program, run: ModuleCall, target: int, readers: dict[int, list[int]]
) -> float | None:
    """Return the factor of a block, 0 of a branch; None for a module that is neither."""
    values = program.values
    works = any(operator_of(program.nodes[at]).product is not None for at in run.nodes)
    if not works or values[run.first].shape != values[target].shape:
        return None
    if not isinstance(submodule(model, run.path), CONTAINERS):  # a stack of blocks is no block
        factor = _factor(program, run.first, target, run.nodes)
        if factor is not None:
            return factor
    return 0.0 if _is_branch(program, run, target, readers) else None


def _factor(program: Program, source: int, target: int, nodes: range) -> float | None:
    """Return the factor with which `source` reaches `target`, through at least one sum; None where it does not."""
    factors, summed = {source: 1.0}, set[int]()
    for at in nodes:
        node = program.nodes[at]
        factor = _carried(node, factors)
        if factor is not None:
            factors[node.outputs[0]] = factor
            if _terms(node) or summed.intersection(node.operands):
                summed.add(node.outputs[0])
    return factors[target] if target in summed else None


def _carried(node: Node, factors: dict[int, float]) -> float | None:
    """Return the factor behind a node for those of its operands; None where the stream ends there."""
    reached = [index for index in node.operands if index in factors]
    operator = operator_of(node)
    if not reached:
        return None
    if terms := _terms(node):
        own = [weight * factors[index] for index, weight in terms if index in factors]
        return own[0] if len(own) == 1 else None
    if operator.norm is not None:
        return 1.0
    if operator.keeps_stream:
        return factors[reached[0]]
    scale = _scale(node)
    return None if scale is None else scale * factors[reached[0]]


def _terms(node: Node) -> list[tuple[int, float]]:
    """Return the tensors that an operator adds, each with its weight; none for another operator."""
    kind = node.op.rstrip("_")
    if kind == "addcmul":
        return [(argument(node, "self").id, 1.0)]
    if not operator_of(node).adds and kind != "sub":
        return []
    left, right = argument(node, "self"), argument(node, "other")
    if not (isinstance(left, Ref) and isinstance(right, Ref)):
        return []
    weight = float(argument(node, "alpha", 1))
    return [(left.id, 1.0), (right.id, -weight if kind == "sub" else weight)]


def _scale(node: Node) -> float | None:
    """Return the number by which an operator multiplies its tensor; None for another operator."""
    kind = node.op.rstrip("_")
    if kind == "neg":
        return -1.0
    if kind not in ("mul", "div") or argument(node, "rounding_mode", None) is not None:
        return None
    number = argument(node, "other")
    if isinstance(number, Ref) or not isinstance(number, int | float):
        return None
    return float(number) if kind == "mul" else 1 / float(number)


def _readers(program: Program) -> dict[int, list[int]]:
    """Return for every value the nodes that read it."""
    readers: dict[int, list[int]] = defaultdict(list)
    for at, node in enumerate(program.nodes):
        for index in node.operands:
            readers[index].append(at)
    return readers


def _is_branch(program: Program, run: ModuleCall, target: int, readers: dict[int, list[int]]) -> bool:
    """Whether a module's output goes, scaled or not, into sums with its input alone."""
    zero, others = [target], set[int]()
    for value in zero:  # grows on the way
        if value in program.outputs:
            return False
        for at in readers[value]:
            if at in run.nodes:
                continue
            node = program.nodes[at]
            if _stays_zero(node, value):
                zero.append(node.outputs[0])
            elif (other := _added_to(node, value)) is not None:
                others.add(other)
            else:
                return False
    same = all(program.values[other].shape == program.values[target].shape for other in others)
    before = set(_before(program, run.first))
    return bool(others) and same and all(before.intersection(_before(program, other)) for other in others)


def _stays_zero(node: Node, value: int) -> bool:
    """Whether an operator makes zeros of a tensor of zeros."""
    operator, kind = operator_of(node), node.op.rstrip("_")
    if kind == "mul" or _scale(node) is not None:
        return True
    if kind == "div":
        return bool(argument(node, "self") == Ref(value)) and argument(node, "rounding_mode", None) is None
    return (operator.carries or operator.effect is Effect.TRANSPOSED) and node.operands == (value,)


def _added_to(node: Node, value: int) -> int | None:
    """Return the tensor that an operator adds a value to, None where it does something else with it."""
    terms = [index for index, _ in _terms(node)]
    others = [index for index in terms if index != value]
    whole = 1 if argument(node, "tensor1", None) is not None else 2  # self + value · tensor1 · tensor2
    return others[0] if len(terms) == whole and len(others) == 1 else None


def _before(program: Program, value: int) -> Iterator[int]:
    """Yield a value and those it was made of without a product; tensors of the model are left out."""
    producers = {output: node for node in program.nodes for output in node.outputs}
    seen, stack = set[int](), [value]
    while stack:
        index = stack.pop()
        if index in seen or program.values[index].kind in ("parameter", "buffer", "constant"):
            continue
        seen.add(index)
        yield index
        node = producers.get(index)
        if node is not None and not operator_of(node).makes_maps:
            stack.extend(node.operands)


def read_elsewhere(model: nn.Module, program: Program, block: ResidualBlock) -> str | None:
    """Return why a block can't be emptied: a module or tensor inside it that is used outside it; None where none is."""
    inside = f"{block.path}."
    nodes = next(run.nodes for run in program.runs if run.path == block.path)
    free = _held_outside(model, inside)
    for run in program.runs:
        own = run.path.startswith(inside) and run.path not in free
        if own and run.nodes and not (nodes.start <= run.nodes.start and run.nodes.stop <= nodes.stop):
            return f"{run.path} is read outside it, in {program.where(program.nodes[run.nodes.start])}"
    tensors = {
        index: name for name, index in program.tensors.items() if name.startswith(inside) and name not in free
    }
    for at, node in enumerate(program.nodes):
        name = next((tensors[index] for index in node.operands if index in tensors), None)
        if at not in nodes and name is not None:
            return f"{name} is read outside it, in {program.where(node)}"
    return None


def _held_outside(model: nn.Module, inside: str) -> set[str]:
    """Return the paths of modules and tensors below a path that are registered elsewhere, too."""
    names: dict[int, list[str]] = defaultdict(list)
    for each in (named_modules, named_parameters, named_buffers):
        for name, held in each(model, remove_duplicate=False):
            names[id(held)].append(name)
    shared = [every for every in names.values() if any(not name.startswith(inside) for name in every)]
    return {name for every in shared for name in every if name.startswith(inside)}
