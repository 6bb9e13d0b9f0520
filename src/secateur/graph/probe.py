"""Look at values of a traced model while it runs on data: real tensors, handed out call by call, none kept.

A trace says which value matters; a probe finds it again in another pass by its place in the code: the function called,
the module whose forward called it, and which of its calls it was. Other batch sizes and lengths change none of these.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from secateur.core.contexts import no_fast_path
from secateur.core.copying import copy_with
from secateur.core.errors import InputError, ModelError, SecateurError, reason_of
from secateur.core.modules import named_modules, set_mode
from secateur.graph.attention import attention_of, stand_in
from secateur.graph.forwards import call_name
from secateur.graph.functions import SIZE_READERS
from secateur.graph.program import Program, Ref
from secateur.measure.inputs import ModelInputs, arguments, batch_size


class Point(NamedTuple):
    """One call in a model's code: the `nth` call of `function` in a pass through the forward of `module`.

    `turn` says which of the passes that make this call is meant.
    """

    module: str
    function: str
    nth: int
    turn: int


class TensorPlace(NamedTuple):
    """Where a value is seen: at a call, on the way into it ("args", "kwargs") or out of it ("out").

    `path` leads to the tensor from there; (1, 2) is item 2 of item 1.
    """

    point: Point
    side: str
    path: tuple[int | str, ...]


Seen = Callable[[TensorPlace, Tensor], Tensor | None]
"""Gets a tensor at its place; one that it returns takes the tensor's place."""


class TensorPlaces:
    """Where the values of a program can be seen when the model is evaluated."""

    def __init__(self, program: Program) -> None:
        self.calls = program.evaluated
        self.points: list[Point] = []
        self._out: dict[int, TensorPlace] = {}
        turns: Counter[tuple[str, str, int]] = Counter()
        for call in self.calls:
            key = call.module, call.name, call.nth.get(call.module, 0)
            point = Point(*key, turns[key])
            turns[key] += 1
            self.points.append(point)
            for path, value in _paths(call.outputs):
                self._out.setdefault(value, TensorPlace(point, "out", path))

    def out(self, value: int) -> TensorPlace | None:
        """Return where a value comes out of a call; None for one that never does, being inside of one."""
        return self._out.get(value)

    def into(self, call: int, value: int) -> TensorPlace | None:
        """Return where a value goes into a call; None where it does not."""
        for side in ("args", "kwargs"):
            for path, found in _paths(getattr(self.calls[call], side)):
                if found == value:
                    return TensorPlace(self.points[call], side, path)
        return None


class Probe:
    """A ghost of a model that shows the tensors at some places of its code whenever it runs.

    The ghost shares the model's weights, without their gradients, and runs in eval mode; the model is not touched.
    """

    def __init__(self, model: nn.Module, program: Program, places: Iterable[TensorPlace]) -> None:
        self.dims: dict[TensorPlace, int] | None = None
        self.stack: list[tuple[str, Counter[str]]] = []
        self.wanted: dict[Point, list[TensorPlace]] = defaultdict(list)
        for place in dict.fromkeys(places):
            self.wanted[place.point].append(place)
        functions = {(point.module, point.function) for point in self.wanted}
        self.expected = Counter(
            (call.module, call.name) for call in program.evaluated if (call.module, call.name) in functions
        )
        self.ghost = copy_with(model, _shared)
        set_mode(self.ghost, False)
        stand_in(self.ghost, attention_of(self.ghost, program))
        for name, module in named_modules(self.ghost):
            if not isinstance(module, torch.jit.ScriptModule):
                module.__dict__["forward"] = self._followed(name, module.forward)

    def run(self, inputs: ModelInputs, seen: Seen) -> Any:
        """Run on one batch, call `seen` at every place the pass comes to, and return what the model returned.

        Raises `ModelError` where the code takes another way than in the trace, so that the places can't be told, and
        `InputError` for inputs it can't run on.
        """
        args, kwargs = arguments(inputs)
        watch = _Watch(self, seen)
        try:
            with no_fast_path(), watch:
                outputs = self.ghost(*args, **kwargs)
        except SecateurError:
            raise
        except Exception as error:
            raise InputError(
                f"The model does not run on the calibration data ({reason_of(error)}): pass batches of what it takes."
            ) from error
        for (module, function), number in self.expected.items():
            if (made := watch.made[module, function]) not in (0, number):
                raise ModelError(
                    f"{module or type(self.ghost).__name__} calls {function} {made} times on the calibration data, and "
                    f"did so {number} times on the example inputs: pass example inputs like the data."
                )
        return outputs

    def sample_dims(self, inputs: ModelInputs) -> dict[TensorPlace, int]:
        """Return for each place the dimension its samples lie along: the one that is shorter for fewer samples.

        Told once, by the first batch of several. Left out are places it does not reach, those where the number of
        samples says nothing, and all where the model runs on no other number.
        """
        if self.dims is None and batch_size(inputs) > 1:
            self.dims = self._told(inputs, batch_size(inputs))
        return self.dims or {}

    @torch.no_grad()
    def _told(self, inputs: ModelInputs, samples: int) -> dict[TensorPlace, int]:
        fewer = min(2, samples - 1)
        sizes: list[dict[TensorPlace, tuple[int, ...]]] = [{}, {}]
        try:
            for batch, found in zip((inputs, first(inputs, fewer)), sizes, strict=True):
                self.run(batch, lambda place, tensor, to=found: to.update({place: tuple(tensor.shape)}))  # type: ignore[misc]
        except InputError:
            return {}
        dims: dict[TensorPlace, int] = {}
        for place, shape in sizes[0].items():
            pairs = zip(shape, sizes[1].get(place, ()), strict=False)
            scaled = [at for at, (whole, part) in enumerate(pairs) if whole * fewer == part * samples]
            if scaled:
                dims[place] = scaled[0]
        return dims

    def _followed(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def followed(*args: Any, **kwargs: Any) -> Any:
            self.stack.append((name, Counter()))
            try:
                return forward(*args, **kwargs)
            finally:
                self.stack.pop()

        return followed


class _Watch(TorchFunctionMode):
    """Counts calls as the recorder of traces does, and shows what goes through those that are wanted."""

    def __init__(self, probe: Probe, seen: Seen) -> None:
        super().__init__()
        self.probe, self.seen = probe, seen
        self.turns: Counter[tuple[str, str, int]] = Counter()
        self.made: Counter[tuple[str, str]] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, probe, name = kwargs or {}, self.probe, call_name(func)
        if name in SIZE_READERS or not probe.stack:
            return func(*args, **kwargs)
        module, counts = probe.stack[-1]
        key = module, name, counts[name]
        for _, every in probe.stack:
            every[name] += 1
        self.made[module, name] += 1
        places = probe.wanted.get(Point(*key, self.turns[key]), ())
        self.turns[key] += 1
        for place in places:
            if place.side == "args":
                args = _shown(args, place, place.path, self.seen)
            elif place.side == "kwargs":
                kwargs = _shown(kwargs, place, place.path, self.seen)
        out = func(*args, **kwargs)
        for place in places:
            if place.side == "out":
                out = _shown(out, place, place.path, self.seen)
        return out


def _shown(tree: Any, place: TensorPlace, path: tuple[int | str, ...], seen: Seen) -> Any:
    """Show the tensor at `path` of a nest, and return the nest with what was given for it."""
    if not path:
        given = seen(place, tree)
        return tree if given is None else given
    given = _shown(tree[path[0]], place, path[1:], seen)
    if given is tree[path[0]]:
        return tree
    if isinstance(tree, dict):
        return {**tree, path[0]: given}
    items = [given if at == path[0] else item for at, item in enumerate(tree)]
    return items if isinstance(tree, list) else tuple(items)


def first(inputs: Any, samples: int) -> Any:
    """Return the first samples of a batch, in all of its tensors that have as many as the first of them."""
    size = batch_size(inputs)

    def cut(value: Any) -> Any:
        return value[:samples] if isinstance(value, Tensor) and value.ndim and len(value) == size else value

    if isinstance(inputs, dict):
        return {name: cut(value) for name, value in inputs.items()}
    return tuple(map(cut, inputs)) if isinstance(inputs, tuple | list) else cut(inputs)


def _paths(tree: Any, path: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], int]]:
    """Yield where the values of a nest are."""
    if isinstance(tree, Ref):
        yield path, tree.id
    elif isinstance(tree, list | tuple):
        for at, item in enumerate(tree):
            yield from _paths(item, (*path, at))
    elif isinstance(tree, dict):
        for key, item in tree.items():
            yield from _paths(item, (*path, key))


def _shared(tensor: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach(), requires_grad=False)
    return tensor.clone()  # may be written to
