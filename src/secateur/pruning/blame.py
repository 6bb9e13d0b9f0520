"""Which of several cuts a failed proof is due to: told in names that can be kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.core.errors import VerificationError
from secateur.graph.cut import Cut
from secateur.graph.groups import Group, Groups
from secateur.graph.program import Node
from secateur.measure.examples import Examples
from secateur.measure.inputs import ModelInputs
from secateur.shrink.apply import apply
from secateur.shrink.differing import first_differing
from secateur.shrink.make import Misfit, make, plan_for


def narrowed(names: Sequence[str], fails: Callable[[Sequence[str]], bool]) -> Sequence[str]:
    """Return the smallest part of `names` that fails on its own, found by halving.

    `fails(part)` says whether a part does. All of those that only fail together are returned.

    >>> narrowed(["a", "b", "c", "d", "e"], lambda part: "d" in part)
    ['d']
    """
    while len(names) > 1:
        halves = names[: len(names) // 2], names[len(names) // 2 :]
        failing = next((half for half in halves if fails(half)), None)
        if failing is None:
            return names
        names = failing
    return names


def accusing(error: VerificationError, kind: str, names: Sequence[str], at: str) -> VerificationError:
    """Return the error of a failed proof with the names of those at fault, a `kind` each, and a place in the code."""
    said = str(error).partition(": it was thrown away")[0].rstrip(".")
    first = f", first in {at}" if at else ""
    if len(names) == 1:
        fault = f"it is the {kind} {names[0]} that can't be cut"
    else:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        fault = f"the {kind}s {shown} can't be cut together"
    return VerificationError(
        f"{said}{first}: {fault}; leave it out with keep={[names[0]]!r}, or report the model."
    )


def of_groups(
    error: VerificationError,
    model: nn.Module,
    groups: Groups,
    cut: Cut,
    example_inputs: ModelInputs | Examples,
) -> VerificationError:
    """Return the error of a failed proof of `cut` with the group and the operator at fault."""
    gone = {each.name: each for each in groups if not cut.alive[each.roots].all()}

    def part_of(names: Sequence[str]) -> Cut:
        return Cut.of(groups.coupling, [_removed(gone[name], cut) for name in names])

    def fails(names: Sequence[str]) -> bool:
        try:
            make(model, part_of(names), example_inputs, check=True)
        except VerificationError:
            return True
        except Misfit:
            return False
        return False

    names = narrowed([*gone], fails)
    part = part_of(names)
    node = first_differing(model, apply(model, plan_for(model, part)[0], share=True), part, example_inputs)
    return accusing(error, "group", names, _place(cut, node))


def _removed(group: Group, cut: Cut) -> tuple[Group, NDArray[np.bool_]]:
    return group, cut.alive[group.roots]


def _place(cut: Cut, node: Node | None) -> str:
    return "" if node is None else f"{node.op} in {cut.coupling.program.where(node)}"
