"""Decisions taken in a forward, such as an order of scores or a threshold: the same for both models where they tie.

Two models that compute the same up to rounding may put equal scores into another order, and all that is picked by it is
another then. So the smaller model decides as the large one did wherever what it decides on is the same up to rounding;
elsewhere it decides by itself, and the difference shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

Alike = Callable[[list[Tensor], list[Tensor]], bool]


class Decisions:
    """What one run decided, and on what, by operator and how many of them came before.

    `alike` says whether two lists of tensors are the same up to rounding.
    """

    def __init__(self, alike: Alike) -> None:
        self.alike = alike
        self.taken: dict[tuple[str, int], tuple[list[Tensor], list[str], list[Tensor]]] = {}

    def first(self, op: str, nth: int, args: Any, out: Any) -> Any:
        """Remember what the large model decided."""
        operands, decided = ([each.clone() for each in _tensors(tree)] for tree in (args, out))
        self.taken[op, nth] = operands, _others(args), decided
        return out

    def again(self, op: str, nth: int, args: Any, out: Any) -> Any:
        """Return what the smaller model's operator returns, with the large one's decisions where they tie."""
        operands, others, decided = self.taken.get((op, nth), ([], [], []))
        if not decided or others != _others(args) or not self.alike(operands, _tensors(args)):
            return out
        alone, theirs = len(decided) == 1, iter(decided)

        def put(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            whole = next(theirs)
            return whole.clone() if alone or not leaf.is_floating_point() else leaf

        return tree_map(put, out)


def _others(tree: Any) -> list[str]:
    """Write out the arguments that are no tensors: a threshold, a number of entries."""
    return [repr(leaf) for leaf in tree_leaves(tree) if not isinstance(leaf, Tensor)]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
