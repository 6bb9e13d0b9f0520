"""Write a program down while a model runs.

Operators and calls are seen by two modes of torch; what they did becomes values, nodes and calls, in which a write in
place is a new value, and every view of that memory sees it.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.core.held import tensors_in
from secateur.core.modules import named_buffers, named_modules, named_parameters
from secateur.core.schemas import given, in_parts, operator_name, returns_view, written_arguments
from secateur.graph.attention import attend, attends
from secateur.graph.forwards import call_name
from secateur.graph.frames import Frames
from secateur.graph.functions import COUNTED, SIZE_READERS
from secateur.graph.operators import UNKNOWN, row
from secateur.graph.program import WRITE, Call, ModuleCall, Node, Program, Ref, Value, refs, replace
from secateur.graph.sizes import Extent, TracedSize, own

CallArguments = tuple[tuple[Any, ...], dict[str, Any]]


class Recorder:
    """Writes the program while the model runs."""

    def __init__(self, program: Program, ghost: nn.Module) -> None:
        self.program = program
        self.known: dict[int, tuple[Tensor, int]] = {}  # id of a tensor → it, so that it lives, and its value
        self.call: int | None = None
        self.stack: list[tuple[str, Counter[str]]] = []
        self.frames = Frames(ghost)
        program.methods, program.caches = self.frames.runs, self.frames.caches
        self.root: dict[int, int] = {}  # value → first value of its memory
        self.latest: dict[int, int] = {}  # first value of a memory → its present content
        self.seen: dict[int, int] = {}  # value → content of the memory when it was made
        self.view: dict[int, tuple[int, int, int]] = {}  # view → value viewed, node, which output
        self.attributes: dict[int, str] = {}  # id of a tensor that a module holds unregistered → its name

    def name_tensors(self, ghost: nn.Module) -> None:
        """Make values of the model's tensors, and note the names of tensors held unregistered."""
        for kind, named in (("parameter", named_parameters(ghost)), ("buffer", named_buffers(ghost))):
            for name, tensor in named:
                self.program.tensors[name] = self.new(tensor, kind, name)
        for path, module in named_modules(ghost):
            for key, value in vars(module).items():
                for tensor in tensors_in(value):
                    self.attributes.setdefault(id(tensor), f"{path}.{key}".lstrip("."))

    def name_inputs(self, inputs: CallArguments) -> None:
        """Make values of the inputs of a pass."""
        for leaf in tree_leaves(inputs):
            if isinstance(leaf, Tensor):
                self.new(leaf, "input")

    def follow(self, ghost: nn.Module) -> None:
        """Have every module say when its forward runs: only what runs inside it counts as its own."""
        for name, module in named_modules(ghost):
            if not isinstance(module, torch.jit.ScriptModule):
                module.__dict__["forward"] = self._followed(name, module.forward)

    def _followed(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def followed(*args: Any, **kwargs: Any) -> Any:
            first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            source, start = -1 if first is None else self.read(first), len(self.program.nodes)
            self.stack.append((name, Counter()))
            self.frames.enter(name, sys._getframe())
            try:
                outputs = forward(*args, **kwargs)
            finally:
                self.stack.pop()
            nodes = range(start, len(self.program.nodes))
            self.program.runs.append(ModuleCall(name, source, self.refer(outputs), nodes))
            return outputs

        return followed

    def run(self, entry: Callable[..., Any], inputs: CallArguments) -> Any:
        """Run the model, or a method of it, with every operator and call written down."""
        args, kwargs = inputs
        with Operators(self), Functions(self):
            return entry(*args, **kwargs)

    def counted(self, function: str, frame: FrameType | None) -> tuple[int, int] | None:
        """Count a call in every method that runs; return the innermost, and how many came before in it."""
        place = None
        for run in self.frames.running(frame, Recorder.run.__code__):
            calls = self.frames.runs[run].calls
            place = run, calls[function]
            calls[function] += 1
        return place

    def new(self, tensor: Tensor, kind: str = "result", name: str = "") -> int:
        """Make a value of a tensor."""
        index = self.value(tensor, kind, name)
        self.root[index] = self.seen[index] = index
        self.latest[index] = index
        return index

    def value(self, tensor: Tensor, kind: str = "result", name: str = "") -> int:
        """Make a value that views or overwrites a memory known already."""
        index = len(self.program.values)
        self.program.values.append(Value(index, tuple(tensor.shape), tensor.dtype, kind, name))
        self.known[id(tensor)] = tensor, index
        return index

    def read(self, tensor: Tensor) -> int:
        """Return the value a tensor holds now, seen through any write to its memory since it was made."""
        if id(tensor) not in self.known:
            return self.new(tensor, "constant", self.attributes.get(id(tensor), ""))
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
        return replace(tree, lambda leaf: Ref(self.read(leaf)) if isinstance(leaf, Tensor) else own(leaf))

    def node(
        self, overload: Any, before: tuple[Any, dict[str, Any]], args: Any, kwargs: Any, out: Any
    ) -> None:
        """Write down one operator that has run."""
        written = [given(overload, args, kwargs, name, None) for name in written_arguments(overload)]
        at = len(self.program.nodes)
        node = Node(operator_name(overload), overload, *before, [], self.call)
        self.program.nodes.append(node)
        if written:
            targets = [target for target in written if isinstance(target, Tensor)]
            known = {id(target) for target in targets}
            fresh = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and id(leaf) not in known]
            node.outputs += [self.new(tensor) for tensor in fresh]
            for target in targets:
                node.outputs.append(self.write(target))
            return
        source = next(refs(node.args), None) if returns_view(overload) else None
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
        self.root[content], self.seen[content] = root, content
        self.latest[root] = self.seen[index] = content
        self.view[index] = self.view[old]
        self.program.nodes.append(Node(WRITE, None, args, {}, [content], self.call))
        return index


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every aten operator."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # asks a tensor for its device or layout
            return func(*args, **kwargs)
        name = operator_name(func)
        known = row(name, func)
        if known is UNKNOWN and (out := in_parts(self, func, args, kwargs)) is not NotImplemented:
            return out
        before = self.recorder.refer(args), self.recorder.refer(kwargs)
        if known.meta is None or self.recorder.program.tensors_were != "meta":
            out = func(*args, **kwargs)
        else:
            out = args[0] if name.endswith("_") else known.meta(*args, **kwargs)
        self.recorder.node(func, before, args, kwargs, out)
        return out


class Functions(TorchFunctionMode):
    """Writes down every call of a torch function, and gives the sizes it asks for a memory."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, recorder = kwargs or {}, self.recorder
        name = call_name(func)
        if name in SIZE_READERS or name in COUNTED:
            recorder.program.follows_sizes |= not _by_torch(sys._getframe(1))
        if name in SIZE_READERS:
            return _sized(recorder.read(args[0]), func(*args, **kwargs), args[0].dim(), *args[1:], **kwargs)
        if attends(func, kwargs):
            recorder.program.attending.add(recorder.stack[-1][0] if recorder.stack else "")
            with self:
                return attend(*args, **kwargs)
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
            recorder.counted(name, sys._getframe(1)),
            recorder.frames.helpers(sys._getframe(1), Recorder.run.__code__),
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
    """Return sizes read from a tensor as `TracedSize`s that remember it."""
    if dim is None:
        return torch.Size(TracedSize(int(size), Extent(value, at)) for at, size in enumerate(sizes))
    return TracedSize(int(sizes), Extent(value, int(dim) % dims))


def _by_torch(frame: FrameType) -> bool:
    """Whether torch's own code runs in a frame."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == "torch"


def _source() -> str:
    """Return file and line of the innermost code that is the model's own; "torch" where there is none."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_code is not Recorder.run.__code__:
        home = frame.f_globals.get("__name__", "")
        if home.partition(".")[0] not in ("torch", "secateur") or home.startswith("secateur.models."):
            return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "torch"
