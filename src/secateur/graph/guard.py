"""Run rules so that nothing they do wrong escapes: what a rule that gives up has touched must stay.

A rule gives up in two ways. It meets a form of its operator that it does not know, which it says with `UnknownForm`;
or it fails with any other error, which is a fault of the rule and told as one. Half of its work may be done by then.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from secateur.core.errors import reason_of
from secateur.graph.coupling import Coupling, Dims, RuleFault
from secateur.graph.functions import FUNCTIONS
from secateur.graph.labels import Lock
from secateur.graph.operators import operator_of
from secateur.graph.program import Call, Node, refs
from secateur.graph.rules.table import UnknownForm


def follow(c: Coupling, node: Node) -> None:
    """Run the rule of a node's operator; outputs that it says nothing of keep their sizes."""
    before = _before(c, node.operands, node.call)
    try:
        operator_of(node).rule(c, node)
    except Exception as error:
        _give_up(c, before, Lock(_told(c, error, node.op), f"{node.op} in {c.program.where(node)}"))
        c.dims.update((output, _sizes_stay(c, output)) for output in node.outputs)
    for output in node.outputs:
        if output not in c.dims:
            c.dims[output] = _sizes_stay(c, output)


def follow_call(c: Coupling, number: int, call: Call) -> None:
    """Do what must be done about a call beyond the rules of its operators, if anything."""
    if call.name not in FUNCTIONS or (rule := FUNCTIONS[call.name].rule) is None:
        return
    before = _before(c, refs((call.args, call.kwargs, call.outputs)), number)
    try:
        rule(c, number, call)
    except Exception as error:
        where = f"{call.name} in {c.program.where_called(number)}"
        _give_up(c, before, Lock(_told(c, error, call.name), where))


def _sizes_stay(c: Coupling, value: int) -> Dims:
    return [None] * len(c.program.values[value].shape)


class _Before(NamedTuple):
    """What a coupling knew before a rule ran: of the operands, and how much of all else."""

    dims: dict[int, Dims]
    labels: int
    call: int | None
    notes: tuple[int, int, int, int]


def _notes(c: Coupling, call: int | None) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Return the lists that a rule adds to."""
    return c.crossed, c.heads, c.parts, c.needs.get(call, []) if call is not None else []


def _before(c: Coupling, operands: Iterable[int], call: int | None) -> _Before:
    c.labels.united.clear()
    crossed, heads, parts, needs = _notes(c, call)
    counts = len(crossed), len(heads), len(parts), len(needs)
    return _Before({index: [*c.dims[index]] for index in operands}, len(c.labels), call, counts)


def _give_up(c: Coupling, before: _Before, lock: Lock) -> None:
    """Undo what a rule noted, and lock all that it touched."""
    for notes, count in zip(_notes(c, before.call), before.notes, strict=True):
        del notes[count:]
    c.dims |= before.dims
    operands = [vector for dims in before.dims.values() for vector in dims if vector is not None]
    for vector in (*operands, *c.labels.united, np.arange(before.labels, len(c.labels))):
        c.labels.lock(vector, lock)


def _told(c: Coupling, error: Exception, name: str) -> str:
    """Count what happened to a rule, and return it as the reason for what stays."""
    if isinstance(error, UnknownForm):
        c.unknown[name] += 1
        return f"secateur's rule for {name} does not know this form of it: {error}"
    said = f": {reason_of(error)}" if str(error).strip() else ""
    fault = RuleFault(name, type(error).__name__ + said, _line(error))
    c.faults[fault] += 1
    return f"secateur's rule for {name} failed with {fault.error}, at {fault.line}"


def _line(error: Exception) -> str:
    """Return file and line of the rule that raised an error."""
    frames = error.__traceback__
    frame = frames and (frames.tb_next or frames)
    return "" if frame is None else f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
