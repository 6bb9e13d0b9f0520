"""The table of operators: one row each, which holds all that the package knows of it.

The rows stand in `graph/rules/`, each above the function that is its label rule; those of products in
`measure/products.py`. An operator without a row locks what it touches, so one that is missing here costs savings, never
correctness.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from secateur.graph.program import Node
from secateur.graph.rules import (
    constants,
    contraction,
    movement,
    normalisation,
    pointwise,
    quantization,
    selection,
    spatial,
    statistics,
)
from secateur.graph.rules.table import ROWS, Effect, Operator, unknown

KINDS = (
    pointwise,
    constants,
    movement,
    contraction,
    normalisation,
    statistics,
    selection,
    spatial,
    quantization,
)
"""The files of rows, all of which are read when this one is."""

OPERATORS: Mapping[str, Operator] = MappingProxyType(ROWS)
"""Operator → its row; the row of `add` is that of `add_` too."""

UNKNOWN = Operator("unknown", unknown)
"""The row of an operator of which nothing is known."""


def operator_of(node: Node) -> Operator:
    """Return the row of a node's operator: its own, that of all pointwise operators, or `UNKNOWN`."""
    return row(node.op, node.overload)


def row(name: str, overload: Any) -> Operator:
    """Return the row of an operator by its name without overload; what torch tags as pointwise is not unknown."""
    found = ROWS.get(name) or ROWS.get(name.rstrip("_"))
    if found is not None:
        return found
    tagged = overload is not None and torch.Tag.pointwise in overload.tags
    return pointwise.TAGGED if tagged else UNKNOWN


__all__ = ["KINDS", "OPERATORS", "UNKNOWN", "Effect", "Operator", "operator_of", "row"]
