"""A traced model as plain values: what was computed, from what, by which line of code.

The trace keeps two views of one forward pass. *Nodes* are the aten operators, in order, functional (an in-place
operator yields a new value), and say what the data did. *Calls* are the functions the Python code called, with
sizes that remember their origin, and say what the code would do if the data had other sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType
from typing import Any

import torch

from secateur.core.brief import Brief
from secateur.core.schemas import written_arguments

WRITE = "write"
"""Name of the nodes, no operators of torch, that write into a part of a memory; see `Node`."""


@dataclass(frozen=True)
class Ref:
    """Stands for value `id` among the arguments of a node or call."""

    id: int


@dataclass
class Value:
    """One tensor: its shape and dtype, and, if it is one, the name of the parameter, buffer or attribute it is.

    `kind` is "parameter", "buffer", "input", "constant" or "result".
    """

    id: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str
    name: str = ""


@dataclass
class Node:
    """One aten operator: `outputs` and the `Ref`s among `args` and `kwargs` index the program's values.

    `call` is the index of the call it ran in, None outside any. For `WRITE`, args are the overwritten value, the nodes
    that view it, and the new content of the view.
    """

    op: str
    overload: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[int]
    call: int | None

    @cached_property
    def operands(self) -> tuple[int, ...]:
        """The values among the arguments, in order."""
        return tuple(refs((self.args, self.kwargs)))


@dataclass
class Call:
    """One call of a torch function from Python, in `module` (path), at `source` ("file.py:12").

    `nth` holds, for every module whose forward was running, how many calls of this function came before. `method` is
    the innermost run of a method that can be taken over, and how many calls of this function came before in it;
    `helpers` are the functions between the two.
    """

    function: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: str
    source: str
    nth: dict[str, int]
    method: tuple[int, int] | None = None
    helpers: frozenset[CodeType] = frozenset()
    outputs: Any = None


@dataclass
class ModuleCall:
    """One pass through a module's forward: its first tensor, what it returned, its nodes."""

    path: str
    first: int
    outputs: Any
    nodes: range


@dataclass
class MethodRun:
    """One run of a module's method, and how often each torch function was called in it, by itself or by others."""

    path: str
    method: str
    calls: Counter[str]


@dataclass(frozen=True)
class Pass:
    """One pass through the model: on which example, in which mode, and its first node and call.

    `inputs` says what it ran on; `training` that the model's own code was in training mode.
    """

    example: int
    training: bool
    inputs: str
    node: int
    call: int


@dataclass(repr=False)
class Program(Brief):
    """Traced passes of a model, one after the other. `outputs` are the value ids of the tensors the model returned."""

    values: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    runs: list[ModuleCall] = field(default_factory=list)
    methods: list[MethodRun] = field(default_factory=list)
    caches: dict[CodeType, Any] = field(default_factory=dict)
    """Caches (`functools.lru_cache`) in front of functions that ran, by the functions' code."""
    follows_sizes: bool = False
    """Whether code of the model, not torch's alone, reads a size or depends on one."""
    elsewhere: list[MethodRun] = field(default_factory=list)
    """Methods that ran at a second size of the inputs, in a pass that is not part of this program."""
    tensors: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, int] = field(default_factory=dict)
    attending: set[str] = field(default_factory=set)
    """Paths of the modules whose code calls torch's attention function."""
    tensors_were: str = "meta"
    """What the pass ran on: "meta" or "fake" tensors, which have no numbers, or "real" ones."""
    passes: list[Pass] = field(default_factory=list)
    """The first is in eval mode, and the one that costs are told of."""

    @property
    def real(self) -> bool:
        """Whether the pass ran on real numbers, because the code looks at values."""
        return self.tensors_were == "real"

    @property
    def evaluation(self) -> list[Node]:
        """The nodes of the first pass, in eval mode."""
        return self.nodes[: self.passes[1].node if len(self.passes) > 1 else None]

    @property
    def evaluated(self) -> list[Call]:
        """The calls of the first pass, in eval mode."""
        return self.calls[: self.passes[1].call if len(self.passes) > 1 else None]

    @property
    def unreached(self) -> list[str]:
        """The parameters that no operator reads."""
        read = {index for node in self.nodes for index in node.operands}
        return [
            name
            for name, index in self.tensors.items()
            if self.values[index].kind == "parameter" and index not in read
        ]

    @cached_property
    def used(self) -> frozenset[int]:
        """The values that reach an output, a number that the code looks at, or a buffer that something used reads.

        What a module only notes for later, such as the histogram of an observer, is not used.
        """
        named, used = set(self.tensors.values()), set(self.outputs)
        while True:
            before = len(used)
            for node in reversed(self.nodes):
                noted = any(index in named and index in used for index in node.operands[:1])
                writes = (
                    noted and bool(written_arguments(node.overload)) if node.overload is not None else noted
                )
                if not node.outputs or writes or used.intersection(node.outputs):
                    used.update(node.operands)
            if len(used) == before:
                return frozenset(used)

    def totals(self, path: str, method: str, function: str) -> set[int]:
        """Return how often a method was seen to call a function, over all of its runs."""
        runs = (*self.methods, *self.elsewhere)
        return {run.calls[function] for run in runs if (run.path, run.method) == (path, method)}

    def where(self, node: Node) -> str:
        """Say in which module and line a node ran."""
        return "the model" if node.call is None else self.where_called(node.call)

    def where_called(self, number: int) -> str:
        """Say in which module and line a call was made, and on which inputs, where the passes differ in them."""
        call = self.calls[number]
        inputs = next((each.inputs for each in reversed(self.passes) if each.call <= number), "")
        on = f" on inputs {inputs}" if len({each.inputs for each in self.passes}) > 1 else ""
        return f"{call.module or 'the model'} ({call.source}){on}"


def refs(tree: Any) -> Iterator[int]:
    """Yield the value ids in a nest of arguments, in order."""
    if isinstance(tree, Ref):
        yield tree.id
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from refs(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from refs(item)


def replace(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """Rebuild a nest of tuples, lists and dicts with `leaf` applied to all that is none of them."""
    if isinstance(tree, torch.Size):
        return tuple(replace(item, leaf) for item in tree)
    if isinstance(tree, tuple):
        items = [replace(item, leaf) for item in tree]
        return type(tree)._make(items) if hasattr(tree, "_make") else tuple(items)
    if isinstance(tree, list):
        return [replace(item, leaf) for item in tree]
    if isinstance(tree, dict):
        return {key: replace(item, leaf) for key, item in tree.items()}
    if isinstance(tree, slice):
        return slice(replace(tree.start, leaf), replace(tree.stop, leaf), replace(tree.step, leaf))
    return leaf(tree)
