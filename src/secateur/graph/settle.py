"""Settle the sizes in the code: which attributes to change so that the model's own Python fits a cut.

Every size the code passes to torch is compared with what the cut makes of it. Where it would come out wrong, an
attribute it was computed from gets a new value; where no attribute explains it (a literal, or a size of another
tensor), the integer is overridden in that call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from secateur.graph.couple import Need
from secateur.graph.cut import Cut
from secateur.graph.program import Call, Ref
from secateur.graph.sizes import Attribute, Extent, Leaf, Scale, Size, evaluate, leaves
from secateur.shrink.plan import Override

Place = tuple[int | str, ...]


class Demand(NamedTuple):
    """The number at `place` of call number `call` is `size` now and must become `need`."""

    call: int
    place: Place
    size: float
    need: float


@dataclass
class Settlement:
    """New values of attributes, integers to override, and calls that can't be made to fit (call, reason)."""

    attributes: dict[str, int] = field(default_factory=dict)
    overrides: list[Override] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)


def settle(cut: Cut) -> Settlement:
    """Find the attributes and overrides that make the code fit the cut."""
    demands = [
        Demand(number, place, size, need)
        for number, call in enumerate(cut.coupling.program.calls)
        if call.name in SIZED
        for place, size, need in SIZED[call.name](cut, number, call)
        if isinstance(size, int | float)
    ]
    settlement = Settlement(failures=_unmet(cut, demands))
    fixed = _used_elsewhere(cut, demands)
    attributes = _unanimous(demands, _direct, fixed)
    extents: dict[Extent, int] = {}

    def leaf(origin: Leaf, old: int) -> int:
        if isinstance(origin, Attribute):
            return attributes.get(origin.path, old)
        if origin not in extents:
            extents[origin] = cut.shape(origin.value)[origin.dim]
        return extents[origin]

    for _ in range(2):  # a size may need two attributes, solved one after the other
        proposals = _unanimous(demands, lambda demand: _derived(demand, leaf, attributes), fixed)
        attributes.update({path: value for path, value in proposals.items() if path not in attributes})
    current = cut.coupling.program.attributes
    settlement.attributes = {path: value for path, value in attributes.items() if value != current[path]}
    _override(cut, [d for d in demands if evaluate(d.size, leaf) != d.need], settlement)
    return settlement


def _direct(demand: Demand) -> Iterator[tuple[str, int]]:
    if type(demand.size) is Size and isinstance(demand.size.origin, Attribute):
        yield demand.size.origin.path, int(demand.need)


def _derived(
    demand: Demand, leaf: Callable[[Leaf, int], int], known: dict[str, int]
) -> Iterator[tuple[str, int]]:
    """Propose a value for the one attribute that could make a computed size come out right."""
    if evaluate(demand.size, leaf) == demand.need:
        return
    if not isinstance(demand.size, int) or not isinstance(demand.need, int):
        return
    now = int.__index__(demand.size)
    for origin, old in leaves(demand.size):
        if not isinstance(origin, Attribute) or origin.path in known:
            continue
        for proposal in (demand.need * old // now if now else old, demand.need, old + demand.need - now):

            def trial(other: Leaf, value: int, origin: Leaf = origin, proposal: int = proposal) -> int:
                return proposal if other == origin else leaf(other, value)

            if proposal > 0 and evaluate(demand.size, trial) == demand.need:
                yield origin.path, proposal
                return


def _unmet(cut: Cut, demands: list[Demand]) -> list[tuple[int, str]]:
    """Return the calls that need another integer which is not found among their arguments."""
    written: dict[int, set[int]] = defaultdict(set)
    for demand in demands:
        written[demand.call].add(int(demand.size))
    failures = []
    for number, needs in cut.coupling.needs.items():
        ways: dict[int, list[Need]] = defaultdict(list)
        for need in needs:
            ways[need.number].append(need)
        for alternatives in ways.values():
            changes = any(need.value != need.sign * cut.count(need.labels) for need in alternatives)
            if changes and not any(need.value in written[number] for need in alternatives):
                failures.append((number, "the code computes a range of it in a way that can't be followed"))
    return failures


def _used_elsewhere(cut: Cut, demands: list[Demand]) -> set[str]:
    """Return the attributes that calls use as something else than a size: they must not change."""
    known = {(demand.call, demand.place) for demand in demands}
    return {
        origin.path
        for number, call in enumerate(cut.coupling.program.calls)
        for place, size in (*_sizes(call.args), *_sizes(call.kwargs))
        if (number, place) not in known
        for origin, _ in leaves(size)
        if isinstance(origin, Attribute)
    }


def _sizes(tree: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield every number with a memory in a nest of arguments, and where it is."""
    if type(tree) in (Size, Scale):
        yield place, tree
    elif isinstance(tree, list | tuple):
        for at, item in enumerate(tree):
            yield from _sizes(item, (*place, at))
    elif isinstance(tree, dict):
        for key, item in tree.items():
            yield from _sizes(item, (*place, key))
    elif isinstance(tree, slice):
        for end in ("start", "stop", "step"):
            yield from _sizes(getattr(tree, end), (*place, end))


def _unanimous(
    demands: list[Demand], proposals: Callable[[Demand], Iterator[tuple[str, int]]], fixed: set[str]
) -> dict[str, int]:
    """Return the attributes, none of them `fixed`, on whose value all demands that propose one agree."""
    wanted: dict[str, set[int]] = defaultdict(set)
    for demand in demands:
        for path, value in proposals(demand):
            wanted[path].add(value)
    return {path: values.pop() for path, values in wanted.items() if len(values) == 1 and path not in fixed}


def _override(cut: Cut, wrong: list[Demand], settlement: Settlement) -> None:
    """Override what no attribute explains; a module that runs several times must need the same each time."""
    overrides: dict[tuple[Any, ...], Override] = {}
    for demand in wrong:
        call = cut.coupling.program.calls[demand.call]
        if call.module not in call.nth:
            settlement.failures.append((demand.call, "a hook of the model fixes its size"))
            continue
        totals = {run.calls.get(call.name, 0) for run in cut.coupling.program.runs if run.path == call.module}
        override = Override(
            call.module, call.name, call.nth[call.module], demand.place, demand.need, max(totals, default=0)
        )
        other = overrides.setdefault((call.module, call.name, override.nth, demand.place), override)
        if other.value != override.value:
            reason = (
                f"the code fixes a size in {call.name}, and runs there several times with different needs"
            )
            settlement.failures.append((demand.call, reason))
    settlement.overrides = list(overrides.values())


Demands = Iterator[tuple[Place, Any, Any]]
SIZED: dict[str, Callable[[Cut, int, Call], Demands]] = {}


def sized(
    *names: str,
) -> Callable[[Callable[[Cut, int, Call], Demands]], Callable[[Cut, int, Call], Demands]]:
    """Register the decorated function as what knows the size arguments of these torch functions."""

    def register(function: Callable[[Cut, int, Call], Demands]) -> Callable[[Cut, int, Call], Demands]:
        for name in names:
            SIZED[name] = function
        return function

    return register


def _output(call: Call, which: int = 0) -> int | None:
    outputs = call.outputs
    if isinstance(outputs, list | tuple):
        outputs = outputs[which] if which < len(outputs) else None
    return outputs.id if isinstance(outputs, Ref) else None


def _runs(call: Call) -> Iterator[tuple[Place, Any]]:
    """Yield every run of integers among the arguments, with the place of each item's container."""
    for start in (0, 1):
        yield (start,), call.args[start:]
    for at, argument in enumerate(call.args):
        yield (at, 0), argument
    for key, argument in call.kwargs.items():
        yield (key, 0), argument


@sized(
    "torch.Tensor.view", "torch.Tensor.reshape", "torch.reshape", "torch.Tensor.expand", "torch.broadcast_to",
    "torch.zeros", "torch.ones", "torch.full", "torch.empty", "torch.rand", "torch.randn",
    "torch.Tensor.new_zeros", "torch.Tensor.new_ones", "torch.Tensor.new_full", "torch.Tensor.new_empty",
    "torch.Tensor.broadcast_to", "torch.Tensor.resize_", "torch.Tensor.unflatten", "torch.unflatten",
    "torch.Tensor.view_as", "torch.Tensor.expand_as",
)  # fmt: skip
def whole_shape(cut: Cut, number: int, call: Call) -> Demands:
    """The arguments are the sizes of the result, or, for unflatten, a run of them."""
    output = _output(call)
    if output is None:
        return
    old, new = cut.coupling.program.values[output].shape, cut.shape(output)
    offset = 0
    if call.name.endswith("unflatten"):
        dim = call.args[1] if len(call.args) > 1 else call.kwargs["dim"]
        count = len(call.args[2] if len(call.args) > 2 else call.kwargs["sizes"])
        offset = dim if dim >= 0 else len(old) - count + 1 + dim
        old, new = old[offset : offset + count], new[offset : offset + count]
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


@sized("torch.Tensor.split", "torch.split", "torch.functional.split", "torch.Tensor.split_with_sizes")
def parts(cut: Cut, number: int, call: Call) -> Demands:
    """The second argument is the size of each part, or one for all."""
    place: Place = (1,) if len(call.args) > 1 else ("split_size_or_sections",)
    sizes = call.args[1] if len(call.args) > 1 else next(iter(call.kwargs.values()), None)
    if len(call.args) <= 1 and call.kwargs:
        place = (next(iter(call.kwargs)),)
    dim = call.kwargs.get("dim", call.args[2] if len(call.args) > 2 else 0)
    if isinstance(sizes, int):
        output = _output(call)
        if output is not None:
            yield place, sizes, cut.shape(output)[dim]
        return
    for at, size in enumerate(sizes or ()):
        output = _output(call, at)
        if output is not None:
            yield (*place, at), size, cut.shape(output)[dim]


@sized("torch.Tensor.__getitem__", "torch.Tensor.narrow", "torch.narrow", "torch.Tensor.__setitem__")
def ranges(cut: Cut, number: int, call: Call) -> Demands:
    """Starts and ends of slices, each the number of indices before it."""
    needs = {need.value: need.sign * cut.count(need.labels) for need in cut.coupling.needs.get(number, ())}
    if call.name.endswith("narrow"):
        output = _output(call)
        dim, start, length = (*call.args, *call.kwargs.values())[1:4]
        if output is not None and isinstance(start, int):
            yield (2,), start, needs.get(start, start)
            yield (3,), length, cut.shape(output)[dim]
        return
    picks = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    for at, pick in enumerate(picks):
        if isinstance(pick, slice):
            place: Place = (1, at) if isinstance(call.args[1], tuple) else (1,)
            for end in ("start", "stop"):
                value = getattr(pick, end)
                if isinstance(value, int) and int(value) in needs:
                    yield (*place, end), value, needs[int(value)]


@sized("torch.nn.functional.pad", "torch._C._nn.pad", "torch.constant_pad_nd")
def padding(cut: Cut, number: int, call: Call) -> Demands:
    """Numbers of constants before and after, in the operator's order."""
    needs = list(cut.coupling.needs.get(number, ()))
    place: Place = (1,) if len(call.args) > 1 else ("pad",)
    for at, amount in enumerate(call.args[1] if len(call.args) > 1 else call.kwargs["pad"]):
        if needs and int(amount) == needs[0].value:
            yield (*place, at), amount, cut.count(needs.pop(0).labels)


@sized("torch.nn.functional.group_norm", "torch.group_norm")
def norm_groups(cut: Cut, number: int, call: Call) -> Demands:
    """The number of groups."""
    for need in cut.coupling.needs.get(number, ()):
        place: Place = (1,) if len(call.args) > 1 else ("num_groups",)
        groups = call.args[1] if len(call.args) > 1 else call.kwargs["num_groups"]
        if int(groups) == need.value:
            yield place, groups, cut.count(need.labels)


@sized(*(f"torch.{home}conv{kind}{rank}d" for home in ("", "nn.functional.") for kind in ("", "_transpose")
         for rank in (1, 2, 3)))  # fmt: skip
def convolution_groups(cut: Cut, number: int, call: Call) -> Demands:
    """The number of groups."""
    for need in cut.coupling.needs.get(number, ()):
        groups = call.args[6] if len(call.args) > 6 else call.kwargs.get("groups", 1)
        if int(groups) == need.value:
            yield (6,) if len(call.args) > 6 else ("groups",), groups, cut.count(need.labels)


@sized("torch.nn.functional.layer_norm", "torch.nn.functional.rms_norm", "torch.layer_norm", "torch.rms_norm")
def normalized_shape(cut: Cut, number: int, call: Call) -> Demands:
    """The sizes of the trailing dimensions."""
    output = _output(call)
    shape = call.args[1] if len(call.args) > 1 else call.kwargs.get("normalized_shape")
    place: Place = (1,) if len(call.args) > 1 else ("normalized_shape",)
    if output is not None and isinstance(shape, list | tuple):
        for at, need in enumerate(cut.shape(output)[-len(shape) :]):
            yield (*place, at), shape[at], need


@sized(
    *(f"torch.{home}{name}" for home in ("", "Tensor.") for name in (
        "mul", "div", "add", "sub", "true_divide", "pow", "rsub", "mul_", "div_", "add_", "sub_", "divide",
        "multiply", "subtract", "clamp", "where", "__rsub__", "__rdiv__", "__rpow__", "__rtruediv__",
    )),
    "torch.nn.functional.scaled_dot_product_attention", "torch.baddbmm", "torch.tensor", "torch.as_tensor",
    "torch.asarray", "torch.scalar_tensor",
)  # fmt: skip
def number(cut: Cut, number: int, call: Call) -> Demands:
    """Numbers to compute with, such as 1/√d, stay what they are: removing units must not rescale the rest."""
    places: list[tuple[int | str, Any]] = [*enumerate(call.args), *call.kwargs.items()]
    for at, argument in places:
        if type(argument) is Size:
            yield (at,), argument, int.__index__(argument)
        elif type(argument) is Scale:
            yield (at,), argument, float(argument)
