"""Settle the sizes in the code: which attributes to change so that the model's own Python fits a cut.

Every size the code passes to torch is compared with what the cut makes of it. Where it would come out wrong, an
attribute it was computed from gets a new value; where no attribute explains it (a literal, or a size of another
tensor), the integer is overridden in that call.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from secateur.graph.coupling import Need
from secateur.graph.cut import Cut
from secateur.graph.program import MethodRun, Program
from secateur.graph.sizes import Attribute, Extent, Leaf, Scale, TracedSize, evaluate, leaves
from secateur.shrink import size_arguments
from secateur.shrink.plan import ArgumentPath, Override


class Demand(NamedTuple):
    """The number at `place` of call number `call` is `size` now and must become `need`."""

    call: int
    place: ArgumentPath
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
        for place, size, need in size_arguments.demands(cut, number, call)
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
    _override(cut, [(d, evaluate(d.size, leaf)) for d in demands], settlement)
    return settlement


def overridden(cut: Cut, demands: list[Demand]) -> Settlement:
    """Override numbers in calls, attributes left alone."""
    settlement = Settlement()
    _override(cut, [(demand, demand.size) for demand in demands], settlement)
    return settlement


def _direct(demand: Demand) -> Iterator[tuple[str, int]]:
    if type(demand.size) is TracedSize and isinstance(demand.size.origin, Attribute):
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


def _sizes(tree: Any, place: ArgumentPath = ()) -> Iterator[tuple[ArgumentPath, Any]]:
    """Yield every number with a memory in a nest of arguments, and where it is."""
    if type(tree) in (TracedSize, Scale):
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


def _override(cut: Cut, demands: list[tuple[Demand, float]], settlement: Settlement) -> None:
    """Override what no attribute explains: numbers that come out as another than their demand, (demand, number).

    A method that runs several times must need the same in its nth call each time. Where it makes another number of such
    calls each time, all of them that come out as one number at one place must need the same. Code whose results are
    cached is left alone: others would find them.
    """
    program = cut.coupling.program
    overrides: dict[tuple[Any, ...], Override] = {}
    agreed: dict[tuple[Any, ...], float] = {}  # what the first needs, or one that needs no change
    for demand, comes_out in sorted(demands, key=lambda each: each[0].need != each[1]):
        for alike in _alike(program, demand, comes_out):
            agreed.setdefault(alike, demand.need)
    for demand, comes_out in demands:
        if comes_out == demand.need:
            continue
        call = program.calls[demand.call]
        if call.method is None:
            settlement.failures.append((demand.call, "a hook of the model fixes its size"))
            continue
        if not call.helpers.isdisjoint(program.caches):
            settlement.failures.append((demand.call, "code whose results are cached fixes its size"))
            continue
        path, method, function = here = _method_of(program, demand)
        totals = program.totals(*here)
        override = Override(path, function, call.method[1], demand.place, demand.need, max(totals), method)
        alike, same_number = _alike(program, demand, comes_out)
        why = "different needs"
        if len(totals) > 1:
            override = replace(override, nth=0, of=0, instead_of=comes_out)
            alike, why = same_number, "another number of such calls each time"
        overrides.setdefault(alike, override)
        if agreed[alike] != demand.need:
            fixes = f"the code fixes a size in {function}, and runs there several times with {why}"
            settlement.failures.append((demand.call, fixes))
    settlement.overrides = list(overrides.values())


def _alike(program: Program, demand: Demand, comes_out: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return what tells a number from others in its method: by which call it is, or by which number."""
    call, here = program.calls[demand.call], (*_method_of(program, demand), demand.place)
    nth = -1 if call.method is None else call.method[1]
    return (*here, "call", nth), (*here, "number", comes_out)


def _method_of(program: Program, demand: Demand) -> tuple[str, str, str]:
    """Return path and name of the method that makes a call, and the function called."""
    call = program.calls[demand.call]
    run = program.methods[call.method[0]] if call.method is not None else MethodRun("", "", Counter())
    return run.path, run.method, call.name
