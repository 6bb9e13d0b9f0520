"""Trace a model: run it once and write down what it computed.

The pass runs on a ghost of the model with tensors that have shapes but no numbers, so a model of any size is traced in
its number of operators: meta tensors, or, where the code mixes devices, fake ones. A model whose code looks at numbers
(`.item()`, detection) runs on its real ones instead.
Kernels that hide several operators in one (fused attention, recurrent cells, the encoder's fast path) are
switched off for the pass, so that what they do is seen. The user's model is never touched.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from secateur.errors import ModelError
from secateur.graph.ghost import copy_with, is_plain_attention, like, tag_attributes
from secateur.graph.program import Call, Node, Program, Ref, Run, Value, refs, replace
from secateur.graph.sizes import Extent, Size, remembered_roots
from secateur.measure.inputs import Inputs, arguments, shapes
from secateur.modes import evaluating, unfused
from secateur.shrink.overrides import call_name
from secateur.shrink.standins import stand_in

SIZE_READERS = {"torch.Tensor.shape.__get__", "torch.Tensor.size"}
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def trace(model: nn.Module, example_inputs: Inputs) -> Program:
    """Run `model` in eval mode on the example inputs and return what it computed.

    Raises `ModelError` for a model that can't run on them.
    """
    for kind in KINDS:
        program, error = attempt(model, example_inputs, kind)
        if error is None:
            return program
        if isinstance(error, ModelError):
            raise error
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".") or type(error).__name__
    raise ModelError(
        f"{type(model).__name__} does not run on example inputs of shape {shapes(example_inputs)} "
        f"({reason}): give what its forward takes, as a tensor, a tuple, or a dict of keywords."
    ) from error


def attempt(model: nn.Module, example_inputs: Inputs, kind: str) -> tuple[Program, Exception | None]:
    """Trace on tensors of one of `KINDS`; return what was recorded, and the error that ended it, if one did."""
    inputs = arguments(example_inputs)
    substitute: Callable[[Tensor], Tensor] = KINDS[kind]
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    with ExitStack() as stack:
        stack.callback(setattr, logger, "disabled", logger.disabled)
        logger.disabled = True  # what fails here is told in one sentence, or tried in another way
        if kind == "meta":
            stack.enter_context(torch.device("meta"))
        elif kind == "fake":
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        inputs = tree_map(lambda leaf: substitute(leaf) if isinstance(leaf, Tensor) else leaf, inputs)
        held = substitute if kind == "meta" else _itself
        ghost = copy_with(model, substitute, held)
        program = Program(tensors_were=kind)
        try:
            _record(ghost, model, inputs, program)
        except Exception as error:
            return program, error
    return program, None


def _itself(tensor: Tensor) -> Tensor:
    return tensor


KINDS = {
    "meta": lambda tensor: like(tensor, "meta"),
    "fake": lambda tensor: like(tensor, "cpu"),
    "real": lambda tensor: (
        tensor if isinstance(tensor, nn.Parameter) else tensor.clone()
    ),  # may be written to
}
"""What a pass can run on, fastest first: each kind knows more of a tensor than the one before."""


def _record(ghost: nn.Module, model: nn.Module, inputs: Arguments, program: Program) -> None:
    stand_in(ghost, [name for name, module in ghost.named_modules() if is_plain_attention(module)])
    program.attributes.update(tag_attributes(ghost, model))
    recorder = _Recorder(program)
    recorder.name_tensors(ghost, inputs)
    recorder.follow(ghost)
    args, kwargs = inputs
    around = evaluating(ghost), torch.no_grad(), unfused(), remembered_roots()
    with ExitStack() as stack:
        for context in (*around, _Operators(recorder), _Functions(recorder)):
            stack.enter_context(context)
        outputs = ghost(*args, **kwargs)
    program.outputs = [recorder.read(leaf) for leaf in tensors_of(outputs)]


PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, type)


def tensors_of(outputs: Any) -> list[Tensor]:
    """Return the tensors a model returned, from any nest of tuples, lists, sets, dicts and objects with fields.

    A cache of keys and values for later calls is no output: its size may change with the model's. Raises `ModelError`
    for what can't be looked into.
    """
    return list(_walk(outputs, set()))


def _walk(outputs: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
        return
    if isinstance(outputs, PLAIN) or id(outputs) in seen or "Cache" in type(outputs).__name__:
        return
    seen.add(id(outputs))
    if isinstance(outputs, list | tuple | set | frozenset):
        parts = list(outputs)
    elif isinstance(outputs, Mapping):
        parts = [item for key, item in outputs.items() if key != "past_key_values"]
    elif hasattr(outputs, "__dict__") and not callable(outputs) and not hasattr(outputs, "__next__"):
        parts = list(vars(outputs).values())
    else:
        raise ModelError(
            f"The model returns a {type(outputs).__name__}, which can't be compared: return tensors, in tuples, dicts "
            "or objects with fields."
        )
    for part in parts:
        yield from _walk(part, seen)


class _Recorder:
    """Writes the program while the model runs."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.known: dict[
            int, tuple[Tensor, int]
        ] = {}  # id of a tensor → it, which keeps its id, and its value
        self.call: int | None = None
        self.stack: list[tuple[str, Counter[str]]] = []
        self.root: dict[int, int] = {}  # value → first value of its memory
        self.latest: dict[int, int] = {}  # first value of a memory → its present content
        self.seen: dict[int, int] = {}  # value → content of the memory when it was made
        self.view: dict[int, tuple[int, int, int]] = {}  # view → value viewed, node, which output

    def name_tensors(self, ghost: nn.Module, inputs: Arguments) -> None:
        """Make values of the model's tensors and the inputs."""
        for kind, named in (("parameter", ghost.named_parameters()), ("buffer", ghost.named_buffers())):
            for name, tensor in named:
                self.program.tensors[name] = self.new(tensor, kind, name)
        for leaf in tree_leaves(inputs):
            if isinstance(leaf, Tensor):
                self.new(leaf, "input")

    def follow(self, ghost: nn.Module) -> None:
        """Have every module say when its forward runs: only what runs inside it counts as its own."""
        for name, module in ghost.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                module.__dict__["forward"] = self._followed(name, module.forward)

    def _followed(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def followed(*args: Any, **kwargs: Any) -> Any:
            first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            source, start = -1 if first is None else self.read(first), len(self.program.nodes)
            calls: Counter[str] = Counter()
            self.stack.append((name, calls))
            try:
                outputs = forward(*args, **kwargs)
            finally:
                self.stack.pop()
            nodes = range(start, len(self.program.nodes))
            self.program.runs.append(Run(name, source, self.refer(outputs), nodes, dict(calls)))
            return outputs

        return followed

    def new(self, tensor: Tensor, kind: str = "result", name: str = "") -> int:
        """Make a value of a tensor."""
        index = self.value(tensor, kind, name)
        self.root[index] = self.seen[index] = index
        self.latest[index] = index
        return index

    def value(self, tensor: Tensor, kind: str = "result", name: str = "") -> int:
        index = len(self.program.values)
        self.program.values.append(Value(index, tuple(tensor.shape), tensor.dtype, kind, name))
        self.known[id(tensor)] = tensor, index
        return index

    def read(self, tensor: Tensor) -> int:
        """Return the value a tensor holds now, seen through any write to its memory since it was made."""
        if id(tensor) not in self.known:
            return self.new(tensor, "constant")
        index = self.known[id(tensor)][1]
        content = self.latest[self.root[index]]
        if self.seen[index] == content:
            return index
        fresh = self.replay(index, content) if index in self.view else content
        self.known[id(tensor)] = tensor, fresh
        return fresh

    def replay(self, index: int, content: int) -> int:
        """View `content` the way value `index` views the memory it is part of."""
        parent, at, which = self.view[index]
        source = self.replay(parent, content) if parent in self.view else content
        node = self.program.nodes[at]
        outputs: list[int] = []
        for old in node.outputs:
            known = self.program.values[old]
            fresh = len(self.program.values)
            self.program.values.append(Value(fresh, known.shape, known.dtype, "result"))
            self.root[fresh], self.seen[fresh] = self.root[index], content
            self.view[fresh] = (source, len(self.program.nodes), len(outputs))
            outputs.append(fresh)
        args = replace(node.args, lambda leaf: Ref(source) if leaf == Ref(parent) else leaf)
        self.program.nodes.append(Node(node.op, node.overload, args, node.kwargs, outputs, self.call))
        return outputs[which]

    def refer(self, tree: Any) -> Any:
        """Put `Ref`s in place of the tensors in a nest of arguments."""
        return replace(tree, lambda leaf: Ref(self.read(leaf)) if isinstance(leaf, Tensor) else leaf)

    def node(
        self, overload: Any, before: tuple[Any, dict[str, Any]], args: Any, kwargs: Any, out: Any
    ) -> None:
        """Write down one operator that has run."""
        schema = overload._schema
        written = [
            (args[position] if position < len(args) else kwargs.get(argument.name))
            for position, argument in enumerate(schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
        at = len(self.program.nodes)
        node = Node(overload._schema.name.partition("::")[2], overload, *before, [], self.call)
        self.program.nodes.append(node)
        if written:
            for target in written:
                if isinstance(target, Tensor):
                    node.outputs.append(self.write(target))
            return
        source = next(refs(node.args), None) if views else None
        for which, tensor in enumerate(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)):
            if source is None:
                node.outputs.append(self.new(tensor))
                continue
            index = self.value(tensor)
            self.root[index] = self.root[source]
            self.seen[index] = self.latest[self.root[source]]
            self.view[index] = (source, at, which)
            node.outputs.append(index)

    def write(self, tensor: Tensor) -> int:
        """Give a tensor that was written in place its new value, and its memory the new content."""
        old = self.read(tensor)
        index = self.value(tensor)
        root = self.root[index] = self.root[old]
        if old not in self.view:
            self.latest[root] = self.seen[index] = index
            return index
        chain, at = [], old
        while at in self.view:
            parent, node, which = self.view[at]
            chain.append((node, which))
            at = parent
        known = self.program.values[self.latest[root]]
        content = len(self.program.values)
        self.program.values.append(Value(content, known.shape, known.dtype, "result"))
        args = (Ref(self.latest[root]), tuple(reversed(chain)), Ref(index))
        self.later = Node("write", None, args, {}, [content], self.call)
        self.root[content], self.seen[content] = root, content
        self.latest[root] = self.seen[index] = content
        self.view[index] = self.view[old]
        self.program.nodes.append(self.later)
        return index


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # asks a tensor for its device or layout
            return func(*args, **kwargs)
        before = self.recorder.refer(args), self.recorder.refer(kwargs)
        shortcut = SHORTCUTS.get(func._schema.name) if self.recorder.program.tensors_were == "meta" else None
        out = shortcut(*args) if shortcut else func(*args, **kwargs)
        self.recorder.node(func, before, args, kwargs, out)
        return out


def _normalised(source: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The results of a batch normalisation."""
    nothing = source.new_empty(0)
    return torch.empty_like(source), nothing, source.new_empty(0)


SHORTCUTS: dict[str, Callable[..., Any]] = {
    "aten::native_batch_norm": _normalised,
    "aten::_native_batch_norm_legit_no_training": _normalised,
}
"""Operators whose meta kernels are slow, being written in Python; what they return has only a shape."""


class _Functions(TorchFunctionMode):
    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, recorder = kwargs or {}, self.recorder
        name = call_name(func)
        if name in SIZE_READERS:
            return _sized(recorder.read(args[0]), func(*args, **kwargs), args[0].dim(), *args[1:], **kwargs)
        nth = {}
        for module, counts in recorder.stack:
            nth[module] = counts[name]
            counts[name] += 1
        call = Call(
            func,
            name,
            recorder.refer(args),
            recorder.refer(kwargs),
            recorder.stack[-1][0] if recorder.stack else "",
            _source(),
            nth,
        )
        recorder.call = len(recorder.program.calls)
        recorder.program.calls.append(call)
        try:
            out = func(*args, **kwargs)
        finally:
            recorder.call = None
        call.outputs = recorder.refer(out) if isinstance(out, Tensor | list | tuple) else None
        return out


def _sized(value: int, sizes: Any, dims: int, dim: int | None = None) -> Any:
    """Return sizes read from a tensor as `Size`s that remember it."""
    if dim is None:
        return torch.Size(Size(int(size), Extent(value, at)) for at, size in enumerate(sizes))
    return Size(int(sizes), Extent(value, int(dim) % dims))


def _source() -> str:
    """Return file and line of the innermost code that is the model's own; "torch" where there is none."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_code is not _record.__code__:
        home = frame.f_globals.get("__name__", "")
        if home.partition(".")[0] not in ("torch", "secateur") or home.startswith("secateur.models."):
            return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "torch"
