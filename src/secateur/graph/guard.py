"""Run rules so that nothing they do wrong escapes: what a rule that gives up has touched must stay.

A rule gives up in two ways. It meets a form of its operator that it does not know, which it says with `UnknownForm`;
or it fails with any other error, which is a fault of the rule and told as one. Half of its work may be done by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from secateur.core.errors import reason_of
from secateur.graph.coupling import Coupling, RuleFault
from secateur.graph.functions import FUNCTIONS
from secateur.graph.labels import Lock
from secateur.graph.operators import operator_of
from secateur.graph.program import Call, Node, refs
from secateur.graph.rules.table import UnknownForm


def follow(c: Coupling, node: Node) -> None:
    """Run the rule of a node's operator; outputs that it says nothing of keep their sizes."""
    before = _Before(c, refs((node.args, node.kwargs)), node.call)
    try:
        operator_of(node).rule(c, node)
    except Exception as error:
        before.give_up(error, node.op, c.program.where(node), node.outputs)
    for output in node.outputs:
        if output not in c.dims:
            c.dims[output] = [None] * len(c.program.values[output].shape)


def follow_call(c: Coupling, number: int, call: Call) -> None:
    """Do what must be done about a call beyond the rules of its operators, if anything."""
    if call.name not in FUNCTIONS or (rule := FUNCTIONS[call.name].rule) is None:
        return
    before = _Before(c, refs((call.args, call.kwargs, call.outputs)), number)
    try:
        rule(c, number, call)
    except Exception as error:
        before.give_up(error, call.name, f"{call.module or 'the model'} ({call.source})")


class _Before:
    """What a coupling knew before a rule ran."""

    def __init__(self, c: Coupling, operands: Iterator[int], call: int | None) -> None:
        self.c, self.call = c, call
        self.dims = {index: list(c.dims[index]) for index in operands}
        self.counts = [len(notes) for notes in self._notes()]
        self.labels = len(c.labels)
        c.labels.united.clear()

    def _notes(self) -> tuple[list[Any], ...]:
        """Return the lists that rules add to."""
        needs = [] if self.call is None else self.c.needs.get(self.call, [])
        return self.c.crossed, self.c.heads, self.c.parts, needs

    def give_up(self, error: Exception, name: str, where: str, outputs: list[int] | None = None) -> None:
        """Undo what the rule noted, lock all that it touched, and tell why."""
        lock = Lock(self._tell(error, name), f"{name} in {where}")
        for notes, count in zip(self._notes(), self.counts, strict=True):
            del notes[count:]
        c, values = self.c, self.c.program.values
        c.dims |= self.dims | {index: [None] * len(values[index].shape) for index in outputs or ()}
        operands = [vector for dims in self.dims.values() for vector in dims if vector is not None]
        for vector in (*operands, *c.labels.united, np.arange(self.labels, len(c.labels))):
            c.labels.lock(vector, lock)

    def _tell(self, error: Exception, name: str) -> str:
        """Count what happened, and return it as the reason for what stays."""
        if isinstance(error, UnknownForm):
            self.c.unknown[name] += 1
            return f"secateur's rule for {name} does not know this form of it: {error}"
        said = f": {reason_of(error)}" if str(error).strip() else ""
        fault = RuleFault(name, type(error).__name__ + said, _line(error))
        self.c.faults[fault] += 1
        return f"secateur's rule for {name} failed with {fault.error}, at {fault.line}"


def _line(error: Exception) -> str:
    """Return file and line of the rule that raised an error."""
    frames = error.__traceback__
    frame = frames and (frames.tb_next or frames)
    return "" if frame is None else f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
