"""What a cut makes of the sizes among the arguments of torch functions.

`graph/functions.py` says which functions take sizes, and where. Here, one function for each kind of them yields, for
every number of a call that depends on a size, where it is, what it is now and what it must become.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from secateur.graph.cut import Cut
from secateur.graph.functions import FUNCTIONS, Sizes
from secateur.graph.program import Call, Ref
from secateur.graph.sizes import Scale, TracedSize
from secateur.shrink.plan import ArgumentPath

Demands = Iterator[tuple[ArgumentPath, Any, Any]]
DemandsOf = Callable[[Cut, int, Call], Demands]
SIZED: dict[Sizes, DemandsOf] = {}


def demands(cut: Cut, number: int, call: Call) -> Demands:
    """Yield the numbers of call number `number` that depend on a size; none of a function that takes no sizes."""
    row = FUNCTIONS.get(call.name)
    if row is not None and row.sizes is not None:
        yield from SIZED[row.sizes](cut, number, call)


def sized(kind: Sizes) -> Callable[[DemandsOf], DemandsOf]:
    """Register the decorated function as what knows the arguments that are sizes of this kind."""

    def register(function: DemandsOf) -> DemandsOf:
        SIZED[kind] = function
        return function

    return register


def _output(call: Call, which: int = 0) -> int | None:
    outputs = call.outputs
    if isinstance(outputs, list | tuple):
        outputs = outputs[which] if which < len(outputs) else None
    return outputs.id if isinstance(outputs, Ref) else None


def _runs(call: Call) -> Iterator[tuple[ArgumentPath, Any]]:
    """Yield every run of integers among the arguments, with the place of each item's container."""
    for start in (0, 1):
        yield (start,), call.args[start:]
    for at, argument in enumerate(call.args):
        yield (at, 0), argument
    for key, argument in call.kwargs.items():
        yield (key, 0), argument


def _spelled(call: Call, old: tuple[int, ...], new: tuple[int, ...]) -> Demands:
    """Yield the numbers of the first run among the arguments that is `old`; −1 stands for any."""
    for place, run in _runs(call):
        if _spells(run, old):
            *container, first = place
            for at, (item, need) in enumerate(zip(run, new, strict=True)):
                if item != -1:
                    yield (*container, int(first) + at), item, need
            return


def _spells(run: Any, sizes: tuple[int, ...]) -> bool:
    """Whether an argument holds these sizes, −1 standing for any."""
    if not isinstance(run, list | tuple) or len(run) != len(sizes) or not run:
        return False
    return all(isinstance(item, int) and item in (-1, size) for item, size in zip(run, sizes, strict=True))


@sized(Sizes.SHAPE)
def whole_shape(cut: Cut, number: int, call: Call) -> Demands:
    """The sizes of the result, wherever they are."""
    output = _output(call)
    if output is not None:
        yield from _spelled(call, cut.coupling.program.values[output].shape, cut.shape(output))


@sized(Sizes.UNFLATTENED)
def run_of_shape(cut: Cut, number: int, call: Call) -> Demands:
    """The sizes that one dimension falls into."""
    output = _output(call)
    if output is None:
        return
    at, sizes = FUNCTIONS[call.name].arguments
    dim, count = at.of(call), len(sizes.of(call))
    old, new = cut.coupling.program.values[output].shape, cut.shape(output)
    first = dim if dim >= 0 else len(old) - count + 1 + dim
    yield from _spelled(call, old[first : first + count], new[first : first + count])


@sized(Sizes.PARTS)
def parts(cut: Cut, number: int, call: Call) -> Demands:
    """The size of each part, or one for all."""
    argument, along = FUNCTIONS[call.name].arguments
    sizes, place, dim = argument.of(call), argument.place(call), along.of(call, 0)
    if isinstance(sizes, int):
        output = _output(call)
        if output is not None:
            yield place, sizes, cut.shape(output)[dim]
        return
    for at, size in enumerate(sizes or ()):
        output = _output(call, at)
        if output is not None:
            yield (*place, at), size, cut.shape(output)[dim]


@sized(Sizes.SLICES)
def slices(cut: Cut, number: int, call: Call) -> Demands:
    """Starts and ends of slices, each the number of indices before it."""
    needs = _needs(cut, number)
    picks = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    for at, pick in enumerate(picks):
        if isinstance(pick, slice):
            place: ArgumentPath = (1, at) if isinstance(call.args[1], tuple) else (1,)
            for end in ("start", "stop"):
                value = getattr(pick, end)
                if isinstance(value, int) and int(value) in needs:
                    yield (*place, end), value, needs[int(value)]


@sized(Sizes.RANGE)
def one_range(cut: Cut, number: int, call: Call) -> Demands:
    """Start and length of a range, the start being the number of indices before it."""
    output, needs = _output(call), _needs(cut, number)
    along, first, size = FUNCTIONS[call.name].arguments
    start = first.of(call)
    if output is not None and isinstance(start, int):
        yield first.place(call), start, needs.get(start, start)
        yield size.place(call), size.of(call), cut.shape(output)[along.of(call)]


def _needs(cut: Cut, number: int) -> dict[int, int]:
    """Return what the integers of a call must become."""
    return {need.value: need.sign * cut.count(need.labels) for need in cut.coupling.needs.get(number, ())}


@sized(Sizes.PADDING)
def padding(cut: Cut, number: int, call: Call) -> Demands:
    """Numbers of constants before and after, in the operator's order."""
    needs = list(cut.coupling.needs.get(number, ()))
    (argument,) = FUNCTIONS[call.name].arguments
    for at, amount in enumerate(argument.of(call)):
        if needs and int(amount) == needs[0].value:
            yield (*argument.place(call), at), amount, cut.count(needs.pop(0).labels)


@sized(Sizes.GROUPS)
def groups(cut: Cut, number: int, call: Call) -> Demands:
    """The number of groups, of a normalisation or a convolution."""
    (argument,) = FUNCTIONS[call.name].arguments
    for need in cut.coupling.needs.get(number, ()):
        count = argument.of(call, 1)
        if int(count) == need.value:
            yield argument.place(call), count, cut.count(need.labels)


@sized(Sizes.TRAILING)
def normalized_shape(cut: Cut, number: int, call: Call) -> Demands:
    """The sizes of the trailing dimensions."""
    output = _output(call)
    (argument,) = FUNCTIONS[call.name].arguments
    shape = argument.of(call)
    if output is not None and isinstance(shape, list | tuple):
        for at, need in enumerate(cut.shape(output)[-len(shape) :]):
            yield (*argument.place(call), at), shape[at], need


@sized(Sizes.VALUES)
def values(cut: Cut, number: int, call: Call) -> Demands:
    """Numbers to compute with, such as 1/√d, stay what they are: removing units must not rescale the rest."""
    places: list[tuple[int | str, Any]] = [*enumerate(call.args), *call.kwargs.items()]
    for at, argument in places:
        if type(argument) is TracedSize:
            yield (at,), argument, int.__index__(argument)
        elif type(argument) is Scale:
            yield (at,), argument, float(argument)
