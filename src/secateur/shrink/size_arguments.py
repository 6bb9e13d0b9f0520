"""Which arguments of torch functions are sizes, and what a cut makes of them.

One function for each family of calls yields, for every number of its arguments that depends on a size, where it is,
what it is now and what it must become.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from secateur.graph.cut import Cut
from secateur.graph.program import Call, Ref
from secateur.graph.sizes import Scale, TracedSize
from secateur.shrink.plan import ArgumentPath

Demands = Iterator[tuple[ArgumentPath, Any, Any]]
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


def _runs(call: Call) -> Iterator[tuple[ArgumentPath, Any]]:
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
    place: ArgumentPath = (1,) if len(call.args) > 1 else ("split_size_or_sections",)
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
            place: ArgumentPath = (1, at) if isinstance(call.args[1], tuple) else (1,)
            for end in ("start", "stop"):
                value = getattr(pick, end)
                if isinstance(value, int) and int(value) in needs:
                    yield (*place, end), value, needs[int(value)]


@sized("torch.nn.functional.pad", "torch._C._nn.pad", "torch.constant_pad_nd")
def padding(cut: Cut, number: int, call: Call) -> Demands:
    """Numbers of constants before and after, in the operator's order."""
    needs = list(cut.coupling.needs.get(number, ()))
    place: ArgumentPath = (1,) if len(call.args) > 1 else ("pad",)
    for at, amount in enumerate(call.args[1] if len(call.args) > 1 else call.kwargs["pad"]):
        if needs and int(amount) == needs[0].value:
            yield (*place, at), amount, cut.count(needs.pop(0).labels)


@sized("torch.nn.functional.group_norm", "torch.group_norm")
def norm_groups(cut: Cut, number: int, call: Call) -> Demands:
    """The number of groups."""
    for need in cut.coupling.needs.get(number, ()):
        place: ArgumentPath = (1,) if len(call.args) > 1 else ("num_groups",)
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
    place: ArgumentPath = (1,) if len(call.args) > 1 else ("normalized_shape",)
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
        if type(argument) is TracedSize:
            yield (at,), argument, int.__index__(argument)
        elif type(argument) is Scale:
            yield (at,), argument, float(argument)
