"""The table of rules and the rule for what is not in it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from secateur.graph.coupling import Coupling, Rule
from secateur.graph.program import Call, Node, Ref, refs

RULES: dict[str, Rule] = {}
CallRule = Callable[[Coupling, int, Call], None]
CALL_RULES: dict[str, CallRule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of these aten operators (in-place forms included)."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def rule_of(node: Node) -> Rule:
    """Return the rule for a node: its operator's, that of all pointwise operators, or `unknown`."""
    rule = RULES.get(node.op) or RULES.get(node.op.rstrip("_"))
    if rule is not None:
        return rule
    pointwise = node.overload is not None and torch.Tag.pointwise in node.overload.tags
    return RULES["pointwise"] if pointwise else unknown


def tensors(tree: object) -> list[Ref]:
    """Return the tensor arguments in a nest, in order."""
    return [Ref(index) for index in refs(tree)]


def unknown(c: Coupling, node: Node) -> None:
    """Lock every dimension of every operand: nothing is known of what the operator does."""
    lock_all(c, node, f"secateur has no rule for the operator {node.op}")
    c.unknown[node.op] = c.unknown.get(node.op, 0) + 1


def lock_all(c: Coupling, node: Node, reason: str) -> None:
    """Lock every dimension of every operand; the outputs keep their sizes."""
    for ref in tensors((node.args, node.kwargs)):
        for vector in c.of(ref):
            c.lock(node, vector, reason)


def call_rule(*names: str) -> Callable[[CallRule], CallRule]:
    """Register what must be known of calls of these functions beyond their operators."""

    def register(function: CallRule) -> CallRule:
        for name in names:
            CALL_RULES[name] = function
        return function

    return register
