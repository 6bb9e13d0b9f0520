"""Operators of the large model computed over what stays of their operand.

A statistic such as that of a normalisation is another one over fewer entries. Where it runs over what is cut, the large
model that a smaller one is compared with computes it over the kept indices, and puts what comes out back in its place.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from secateur.core.errors import VerificationError
from secateur.core.schemas import in_parts, operator_name, positions
from secateur.graph.cut import Cut
from secateur.graph.operators import UNKNOWN, operator_of, row
from secateur.graph.program import Node, Ref
from secateur.graph.rules.table import Normalisation
from secateur.shrink import draws

ResultSeen = Callable[[str, Any], None]
"""Gets the name of an operator that has run, and what it returned."""

NARROW = (torch.float16, torch.bfloat16, torch.float32)


def crossing(cut: Cut) -> dict[str, dict[int, Node]]:
    """Return the operators whose statistic runs over what is cut: name → how many came before → node."""
    affected = {id(node) for node, vector in cut.coupling.crossed if not cut.kept(vector).all()}
    count: Counter[str] = Counter()
    found: dict[str, dict[int, Node]] = defaultdict(dict)
    for node in cut.coupling.program.nodes:
        if id(node) in affected:
            found[node.op][count[node.op]] = node
        count[node.op] += 1
    return dict(found)


def type_for(own: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """Return the type that takes the place of a tensor's own where all runs in `dtype`."""
    if own.is_complex:
        return dtype.to_complex()
    return dtype if own in NARROW else own


class Widened(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps every number in `dtype`, and the statistics of some operators to what stays.

    `drawn` is asked for the random numbers to use instead of those an operator drew: (operator, how many came before,
    numbers) → numbers. `decided` is asked in the same way for what to return in place of what an operator decided.
    `seen` gets what each operator returns.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        crossing: dict[str, dict[int, Node]],
        cut: Cut,
        drawn: Callable[[str, int, Tensor], Tensor],
        decided: Callable[[str, int, Any, Any], Any],
        seen: ResultSeen = lambda op, out: None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.crossing, self.cut = dtype, crossing, cut
        self.drawn, self.decided, self.seen = drawn, decided, seen
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = operator_name(func)
        known = row(name, func)
        if known is UNKNOWN and (out := in_parts(self, func, args, kwargs)) is not NotImplemented:
            return out
        if kwargs.get("dtype") is not None:
            kwargs["dtype"] = type_for(kwargs["dtype"], self.dtype)
        args = _narrowed(func, known.single, args) if known.single else args
        nth = self.count[name]
        self.count[name] += 1
        node = self.crossing.get(name, {}).get(nth)
        if node is not None:
            out = _over_kept(func, args, kwargs, node, self.cut)
        else:
            out = draws.run(func, name, args, kwargs, partial(self.drawn, name, nth))
            in_place = name.endswith("_") and not name.endswith("__")
            out = self.decided(name, nth, (args, kwargs), out) if known.decides and not in_place else out
        self.seen(name, out)
        return out


def _narrowed(func: Any, names: tuple[str, ...], args: Any) -> list[Any]:
    """Return arguments, those of these names in float32."""
    named = zip(positions(func), args, strict=False)
    return [given.float() if name in names and isinstance(given, Tensor) else given for name, given in named]


def _over_kept(func: Callable[..., Any], args: Any, kwargs: Any, node: Node, cut: Cut) -> Any:
    """Run an operator on the kept indices of its operands, and put what comes out back in its place."""
    source: Ref = node.args[0]
    whole: Tensor = args[0]
    if tuple(whole.shape) != cut.coupling.program.values[source.id].shape:
        raise VerificationError(f"{node.op} met another shape than in the trace")
    stay = _staying(cut, source)
    part = _selected(whole, stay)
    norm = operator_of(node).norm
    rest = _kept_operands(args, node, cut) if norm is None else _following(func, args, norm, stay, part)
    out = func(part, *rest, **kwargs)

    whole_shapes = iter(node.outputs)

    def back(tensor: Any) -> Any:
        """Put an output's entries where they are in the large model, zeros elsewhere."""
        if not isinstance(tensor, Tensor):
            return tensor
        index = next(whole_shapes)
        shape, dims = cut.coupling.program.values[index].shape, cut.coupling.dims[index]
        for dim, vector in enumerate(dims):
            if vector is not None and tensor.shape[dim] != shape[dim]:
                kept = torch.from_numpy(np.flatnonzero(cut.kept(vector)))
                sizes = list(tensor.shape)
                sizes[dim] = shape[dim]
                tensor = tensor.new_zeros(sizes).index_copy(dim, kept.to(tensor.device), tensor)
        return tensor

    return tree_map(back, out)


def _staying(cut: Cut, operand: Ref) -> dict[int, Tensor]:
    """Return dimension → indices that stay, for the dimensions of an operand that are cut."""
    return {
        dim: torch.from_numpy(np.flatnonzero(cut.kept(vector)))
        for dim, vector in enumerate(cut.coupling.dims[operand.id])
        if vector is not None and not cut.kept(vector).all()
    }


def _selected(tensor: Tensor, stay: dict[int, Tensor]) -> Tensor:
    for dim, indices in stay.items():
        tensor = tensor.index_select(dim, indices.to(tensor.device))
    return tensor


def _kept_operands(args: Any, node: Node, cut: Cut) -> list[Any]:
    """Return the arguments behind the first, of tensors what stays of them."""
    return [
        _selected(given, _staying(cut, ref)) if isinstance(ref, Ref) and isinstance(given, Tensor) else given
        for given, ref in zip(args[1:], node.args[1:], strict=True)
    ]


def _following(func: Any, args: Any, norm: Normalisation, stay: dict[int, Tensor], part: Tensor) -> list[Any]:
    """Return the arguments of a normalisation behind the first, whose indices `stay` are left, `part`."""
    named = zip(positions(func), args, strict=False)
    return [_followed(norm, name, given, stay, part) for name, given in named][1:]


def _followed(norm: Normalisation, name: str, given: Any, stay: dict[int, Tensor], part: Tensor) -> Any:
    """Return an argument of a normalisation: entries of what is left, sizes of what is left, or itself."""
    if name in norm.tensors and isinstance(given, Tensor):
        return _left(given, norm.first(part.ndim, given.ndim), stay)
    if name == norm.shape:
        return list(part.shape[-len(given) :])
    return math.prod(list(part.shape)[norm.sizes[name]]) if name in norm.sizes else given


def _left(tensor: Tensor, first: int, stay: dict[int, Tensor]) -> Tensor:
    """Return what is left of a tensor whose dimensions are those of an operand from `first` on."""
    for dim, indices in stay.items():
        if first <= dim < first + tensor.ndim:
            tensor = tensor.index_select(dim - first, indices.to(tensor.device))
    return tensor
