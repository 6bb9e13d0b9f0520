"""The row of an operator, the decorator that writes rows, and what is done about operators without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from torch import Tensor

from secateur.graph.coupling import Coupling, Rule
from secateur.graph.program import Node, Ref, refs
from secateur.measure.products import OperatorProduct


class Effect(Enum):
    """What becomes of the entries of an operator's operands."""

    SAME = "they come out as they went in, in eval mode"
    RESHAPED = "they come out in the same order, in another shape"
    TRANSPOSED = "they come out with the dimensions in another order"
    MOVED = "they are moved, picked by range, repeated or joined"
    POINTWISE = "each result is computed from the entries at the same place"


@dataclass(frozen=True)
class Normalisation:
    """What an operator normalises, and which arguments follow it.

    It normalises each of the "channels" (dimension 1) by itself, "groups" of them, or the "trailing" dimensions. Of the
    arguments, `tensors` have an entry for each normalised index: scale, shift, running mean and variance. `groups` is
    the number of groups, `shape` the sizes of the trailing dimensions, and `sizes` are products of sizes of the
    operand: name → slice of its shape.
    """

    over: Literal["channels", "groups", "trailing"]
    tensors: tuple[str, ...] = ("weight", "bias")
    epsilon: str = "eps"
    groups: str | None = None
    shape: str | None = None
    sizes: Mapping[str, slice] = field(default_factory=dict)

    def first(self, rank: int, tensor_rank: int) -> int:
        """Return the dimension of an operand of `rank` dimensions that is the first of one of `tensors`."""
        return rank - tensor_rank if self.over == "trailing" else 1


Keep = Callable[[Tensor], Tensor]
"""Sees numbers that were drawn, and returns those to use."""


@dataclass(frozen=True)
class Operator:
    """All that is known of one ATen operator, in-place forms (`add_`) included.

    `rule` says how labels pass it. `effect` says what becomes of entries, None for anything else.
    """

    name: str
    rule: Rule
    effect: Effect | None = None
    product: OperatorProduct | None = None
    """What it multiplies and sums over."""
    norm: Normalisation | None = None
    """What it normalises."""
    linear: int | None = None
    """It is linear where so many of its operands are tensors; what moves entries is linear anyway."""
    adds: bool = False
    """It adds its operands: a residual stream goes on behind it."""
    idempotent: bool = False
    """Done twice it does what it does once: it leaves a stream alone that has run through it before."""
    averages: bool = False
    """Its statistic stays the same when each entry is there twice, as that of a sum does not."""
    mixes: bool = False
    """It makes activations of weights, though it is no product."""
    decides: bool = False
    """Its result jumps where operands are as good as the same: an order, a comparison, a rounding."""
    draws: bool = False
    """It draws numbers that depend on no tensor but on the shape of one."""
    single: tuple[str, ...] = ()
    """The arguments that it takes in float32 alone, whatever its operand is."""
    from_noise: Callable[..., Any] | None = None
    """Computes it from numbers that depend on a shape alone: (keep, *its arguments) → what it returns."""
    meta: Callable[..., Any] | None = None
    """Stands in for its meta kernel, where that is slow: the same arguments → tensors of the right shapes."""

    @property
    def moves(self) -> bool:
        """Whether its results are entries of its operands and nothing else."""
        return self.effect not in (None, Effect.POINTWISE)

    @property
    def carries(self) -> bool:
        """Whether its result holds the entries of its operand in the same order."""
        return self.effect in (Effect.SAME, Effect.RESHAPED)

    @property
    def same_doubled(self) -> bool:
        """Whether a statistic of it stays the same when each entry is there twice."""
        return self.averages or self.norm is not None

    @property
    def keeps_stream(self) -> bool:
        """Whether a residual stream is the same behind it, or normalised."""
        return self.carries or self.effect is Effect.TRANSPOSED or self.idempotent or self.norm is not None

    @property
    def makes_maps(self) -> bool:
        """Whether it makes activations of weights, rather than shift or scale them."""
        return self.product is not None or self.mixes

    @property
    def keeps_maps(self) -> bool:
        """Whether a feature map behind it is the same map, activated or normalised."""
        return self.effect in (Effect.SAME, Effect.POINTWISE) or self.norm is not None


ROWS: dict[str, Operator] = {}


def operator(*names: str, **facts: Any) -> Callable[[Rule], Rule]:
    """Give each of these operators a row with the decorated function as its rule, and these facts.

    Raises `ValueError` for an operator that has a row already.
    """

    def register(rule: Rule) -> Rule:
        for name in names:
            if name in ROWS:
                raise ValueError(f"{name} has a row already")
            ROWS[name] = Operator(name, rule, **facts)
        return rule

    return register


class UnknownForm(Exception):
    """Raised by a rule for a form of its operator that it does not know, with what is special about the form."""


def tensors(tree: object) -> list[Ref]:
    """Return the tensor arguments in a nest, in order."""
    return [Ref(index) for index in refs(tree)]


def unknown(c: Coupling, node: Node) -> None:
    """Lock every dimension of every operand: nothing is known of what the operator does."""
    lock_all(c, node, f"secateur has no rule for the operator {node.op}")
    c.unknown[node.op] += 1


def lock_all(c: Coupling, node: Node, reason: str) -> None:
    """Lock every dimension of every operand; the outputs keep their sizes."""
    for ref in tensors((node.args, node.kwargs)):
        for vector in c.of(ref):
            c.lock(node, vector, reason)
