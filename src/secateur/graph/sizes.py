"""Integers that remember where they came from.

While a model is traced, every integer attribute of its modules and every size read from a tensor is a `TracedSize`: an
int like any other, which also carries the expression that made it. `x.shape[-1] // self.num_heads` arrives at
`view` as the number 64 and as "last dimension of value 12, divided by attribute num_heads of module attn". So a
smaller model can be asked what each size in its code would become, and which attribute to change.

A number remembers for one trace only. Caches keyed by numbers (`functools.lru_cache`) would hand one place of the code
the number of another, or one trace that of another: see `graph/caches.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Attribute:
    """An integer held by a module: `path` is "module.path:attribute", as in a plan."""

    path: str


@dataclass(frozen=True)
class Extent:
    """The size of dimension `dim` of the traced value `value`."""

    value: int
    dim: int


Leaf = Attribute | Extent


@dataclass(frozen=True)
class Derived:
    """An arithmetic result: `function(*operands)`."""

    function: Callable[..., Any]
    operands: tuple[Any, ...]


@dataclass
class Memory:
    """What the numbers of one trace have in common. `looked_up` is called before one of them is looked up somewhere."""

    looked_up: Callable[[], None]


_memories: list[Memory] = []


def _memory() -> Memory | None:
    """Return the memory of the trace that runs; None while none does."""
    return _memories[-1] if _memories else None


class TracedSize(int):
    """An int with the expression it came from in `origin`, made by the trace that `memory` belongs to."""

    origin: Leaf | Derived
    memory: Memory | None

    def __new__(cls, value: int, origin: Leaf | Derived) -> TracedSize:
        """Attach `origin` to `value`."""
        size = super().__new__(cls, value)
        size.origin, size.memory = origin, _memory()
        return size

    def __hash__(self) -> int:
        if self.memory is not None and self.memory is _memory():
            self.memory.looked_up()
        return int.__hash__(self)

    def __deepcopy__(self, memo: Any) -> TracedSize:
        return self

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return int, (int(self),)


class Scale(float):
    """A float computed from a `TracedSize`, such as the 1/√d of attention."""

    origin: Leaf | Derived
    memory: Memory | None

    def __new__(cls, value: float, origin: Leaf | Derived) -> Scale:
        """Attach `origin` to `value`."""
        scale = super().__new__(cls, value)
        scale.origin, scale.memory = origin, _memory()
        return scale

    def __hash__(self) -> int:
        if self.memory is not None and self.memory is _memory():
            self.memory.looked_up()
        return float.__hash__(self)

    def __deepcopy__(self, memo: Any) -> Scale:
        return self

    def __reduce__(self) -> tuple[type, tuple[float]]:
        return float, (float(self),)


def _remember(home: type, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    plain = getattr(home, name)

    def method(self: Any, *others: Any) -> Any:
        if not of_this_trace(self):
            return function(own(self), *others)
        others = tuple(map(own, others))
        if home is int and others and isinstance(others[0], float):
            result = getattr(float, name)(float(self), *others)
        else:
            result = plain(self, *others)
        if type(result) is int:
            return TracedSize(result, Derived(function, (self, *others)))
        return Scale(result, Derived(function, (self, *others))) if type(result) is float else result

    return method


def _swapped(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: function(b, a)


_BINARY: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "truediv": operator.truediv,
    "mod": operator.mod,
    "pow": operator.pow,
}
for _name, _function in _BINARY.items():
    for _class, _home in ((TracedSize, int), (Scale, float)):
        setattr(_class, f"__{_name}__", _remember(_home, f"__{_name}__", _function))
        setattr(_class, f"__r{_name}__", _remember(_home, f"__r{_name}__", _swapped(_function)))
_UNARY: dict[str, Callable[..., Any]] = {"neg": operator.neg, "pos": operator.pos, "abs": abs}
for _name, _function in _UNARY.items():
    setattr(TracedSize, f"__{_name}__", _remember(int, f"__{_name}__", _function))
    setattr(Scale, f"__{_name}__", _remember(float, f"__{_name}__", _function))


def of_this_trace(number: Any) -> bool:
    """Whether a number was made by the trace that runs, or none runs."""
    return not _memories or number.memory is _memory()


def own(number: Any) -> Any:
    """Return a number as it is, or without its memory where that is another trace's."""
    if type(number) is TracedSize and not of_this_trace(number):
        return int(number)
    return float(number) if type(number) is Scale and not of_this_trace(number) else number


@contextmanager
def remembering(looked_up: Callable[[], None]) -> Iterator[None]:
    """Have numbers made while the block runs remember where they came from, roots of them included.

    `looked_up` is called before each look-up of such a number in a dictionary, a set or a cache.
    """
    root = math.sqrt

    def sqrt(number: Any, /) -> float:
        if type(number) in (TracedSize, Scale) and of_this_trace(number):
            return Scale(root(number), Derived(root, (number,)))  # attention divides by √d
        return root(number)

    _memories.append(Memory(looked_up))
    math.sqrt = sqrt
    try:
        yield
    finally:
        math.sqrt = root
        _memories.pop()


def evaluate(size: Any, leaf: Callable[[Leaf, int], int]) -> Any:
    """Return what `size` becomes when each of its leaves becomes `leaf(origin, old value)`.

    A plain number stays what it is.
    """
    if type(size) not in (TracedSize, Scale):
        return size
    if isinstance(size.origin, Derived):
        operands = [evaluate(operand, leaf) for operand in size.origin.operands]
        try:
            return size.origin.function(*operands)
        except ZeroDivisionError:
            return 0
    return leaf(size.origin, int.__index__(size))


def leaves(size: Any) -> Iterator[tuple[Leaf, int]]:
    """Yield every leaf of an expression with its present value."""
    if type(size) in (TracedSize, Scale):
        if isinstance(size.origin, Derived):
            for operand in size.origin.operands:
                yield from leaves(operand)
        else:
            yield size.origin, int.__index__(size)
