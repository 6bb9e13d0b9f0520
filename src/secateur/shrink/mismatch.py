"""Check that a smaller model runs, size by size, before anything is computed with it.

The smaller model is traced like the large one. Both make the same calls in the same order; the first whose result
has another size than the cut foretells, or that fails, names the place in the code that does not follow, and what
it touches is locked.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from torch import nn

from secateur.core.errors import reason_of
from secateur.graph.cut import Cut
from secateur.graph.functions import FUNCTIONS, Sizes
from secateur.graph.operators import Effect, operator_of
from secateur.graph.program import Call, Node, Program, refs
from secateur.graph.readers import summed_activations
from secateur.graph.trace import attempt
from secateur.measure.examples import Examples
from secateur.measure.inputs import ModelInputs
from secateur.shrink.plan import ArgumentPath
from secateur.shrink.resize import Demand


def misfits(small: nn.Module, cut: Cut, example_inputs: ModelInputs | Examples) -> list[tuple[int, str]]:
    """Return the calls (number, reason) at which the smaller model first goes another way; none if it fits."""
    program = cut.coupling.program
    training = any(each.training for each in program.passes)
    after, error = attempt(small, example_inputs, program.tensors_were, training=training)
    for number, (call, other) in enumerate(zip_longest(program.calls, after.calls)):
        if call is None:
            break
        if program.real and other is not None and call.name != other.name:
            return []  # the path depends on the numbers, which differ
        if other is None or call.name != other.name:
            reason = _because(error) or "the code takes another path for other sizes"
            return [(max(0, number - 1), reason)]
        if other.outputs is None and call.outputs is not None:
            return [(number, _because(error))]
        if not _agree(cut, call, after, other):
            return [(number, f"the code at {call.source} fixes its size in a way that can't be changed")]
    if error is not None:
        return [(len(program.calls) - 1, _because(error))]
    return _rescaled(program, after)


def renumbered(small: nn.Module, cut: Cut, example_inputs: ModelInputs | Examples) -> list[Demand]:
    """Return the numbers that the smaller model computes with and made anew from its sizes, with their old values.

    Such as 1/√d with a d that is smaller now: removing units must not rescale the rest. Empty where the smaller model
    does not run.
    """
    program = cut.coupling.program
    training = any(each.training for each in program.passes)
    after, error = attempt(small, example_inputs, program.tensors_were, training=training)
    return _made_anew(program, after) if error is None else []


def _made_anew(program: Program, after: Program) -> list[Demand]:
    found: list[Demand] = []
    for number, (call, other) in enumerate(zip(program.calls, after.calls, strict=False)):
        if call.name != other.name:
            break
        row = FUNCTIONS.get(call.name)
        whole = row is not None and row.sizes is Sizes.VALUES
        for old, new in ((call.args, other.args), (call.kwargs, other.kwargs)):
            before, now = _plain(old, whole), _plain(new, whole)
            found += [
                Demand(number, place, now[place], value)
                for place, value in before.items()
                if place in now and repr(now[place]) != repr(value)
            ]
    return found


def _plain(tree: Any, whole: bool) -> dict[ArgumentPath, int | float]:
    """Return place → number for those with a fraction in a nest of arguments, and for all of them where `whole`."""
    found: dict[ArgumentPath, int | float] = {}
    for place, leaf in _leaves(tree):
        if isinstance(leaf, float):
            found[place] = float(leaf)
        elif whole and isinstance(leaf, int) and not isinstance(leaf, bool):
            found[place] = int.__index__(leaf)
    return found


def _leaves(tree: Any, place: ArgumentPath = ()) -> Iterator[tuple[ArgumentPath, Any]]:
    """Yield place and value of all that is no container in a nest of arguments."""
    if isinstance(tree, list | tuple):
        for at, item in enumerate(tree):
            yield from _leaves(item, (*place, at))
    elif isinstance(tree, dict):
        for key, item in tree.items():
            yield from _leaves(item, (*place, key))
    else:
        yield place, tree


def _rescaled(program: Program, after: Program) -> list[tuple[int, str]]:
    """Return the calls of the first module that computes with another number than before, made from a size."""
    anew = _made_anew(program, after)
    if anew:
        return _calls_beside(program, anew[0].call)
    for node, other in zip(program.nodes, after.nodes, strict=False):
        if node.op != other.op:
            break
        if node.call is not None and _numbers(node) != _numbers(other):
            return _calls_beside(program, node.call)
    return []


def _calls_beside(program: Program, at: int) -> list[tuple[int, str]]:
    """Return all calls in the module of one that computes with a number made from a size."""
    here = program.calls[at]
    reason = f"the code at {here.source} computes with a number made from its size"
    return [(number, reason) for number, call in enumerate(program.calls) if call.module == here.module]


def _numbers(node: Node) -> list[str]:
    """Return the numbers an operator computes with, written out: NaN is what NaN was.

    Whole numbers are sizes or dimensions, but for a pointwise operator.
    """
    kinds = (int, float) if operator_of(node).effect is Effect.POINTWISE else (float,)
    return [repr(float(argument)) for argument in node.args if isinstance(argument, kinds)]


def products_of_activations(cut: Cut) -> list[tuple[int, str]]:
    """Return the calls that sum products of two activations over what is cut.

    Zeroed weights need not make both of them zero, as in attention without softmax: such a sum is not the same with
    fewer terms.
    """
    program = cut.coupling.program
    weights = {value.id for value in program.values if value.kind in ("parameter", "buffer")}
    found = []
    for node in program.nodes:
        operands = set(refs(node.args))
        if operands and operands <= weights:
            weights.update(node.outputs)
        elif node.call is not None:
            summed = summed_activations(cut.coupling, node, weights)
            if not all(cut.kept(vector).all() for vector in summed):
                found.append(
                    (node.call, "the code sums products over it that are not zero without its weights")
                )
    return found


def _agree(cut: Cut, call: Call, after: Program, other: Call) -> bool:
    """Whether a call's results have the sizes the cut foretells; on real numbers only sizes that may be cut count."""
    results, others = list(refs(call.outputs)), list(refs(other.outputs))
    if len(results) != len(others):
        return cut.coupling.program.real
    for index, at in zip(results, others, strict=True):
        dims, foretold, found = cut.coupling.dims[index], cut.shape(index), after.values[at].shape
        if len(foretold) != len(found):
            return False
        for vector, size, there in zip(dims, foretold, found, strict=True):
            if size != there and (vector is not None or not cut.coupling.program.real):
                return False
    return True


def _because(error: Exception | None) -> str:
    if error is None:
        return ""
    return f"the code does not run with another size ({reason_of(error)})"
