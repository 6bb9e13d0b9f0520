"""Check that a smaller model runs, size by size, before anything is computed with it.

The smaller model is traced like the large one. Both make the same calls in the same order; the first whose result
has another size than the cut foretells, or that fails, names the place in the code that does not follow, and what
it touches is locked.
"""

from __future__ import annotations

from itertools import zip_longest

from torch import nn

from secateur.graph.cut import Cut
from secateur.graph.program import Call, Program, refs
from secateur.graph.trace import attempt
from secateur.measure.inputs import Inputs


def misfit(small: nn.Module, cut: Cut, example_inputs: Inputs) -> tuple[int, str] | None:
    """Return the first call (number, reason) at which the smaller model goes another way, None if it fits."""
    program = cut.coupling.program
    after, error = attempt(small, example_inputs, real=program.real)
    for number, (call, other) in enumerate(zip_longest(program.calls, after.calls)):
        if call is None:
            return None if error is None else (len(program.calls) - 1, _because(error))
        if program.real and other is not None and call.name != other.name:
            return None  # the path depends on the numbers, which differ
        if other is None or call.name != other.name:
            return max(0, number - 1), _because(error) or "the code takes another path for other sizes"
        if other.outputs is None and call.outputs is not None:
            return number, _because(error)
        if not _agree(cut, call, after, other):
            return number, f"the code at {call.source} fixes its size in a way that can't be changed"
    return (len(program.calls) - 1, _because(error)) if error else None


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
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return f"the code does not run with another size ({first or type(error).__name__})"
