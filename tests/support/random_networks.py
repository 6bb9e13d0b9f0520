"""Random small networks, always valid: a strategy for hypothesis.

A network is a program. Each step applies one module to values computed before it, so that values are used twice,
added, joined, or forgotten, and modules are shared. A value has a batch dimension and then [C, H, W] (an image),
[N, C] (a sequence) or [C] (a vector). `BLOCKS` names the steps there are; a block says which shapes it takes, and
draws its own sizes. Printed, a network is its program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from structural_zoo import conv, disturb
from torch import Tensor, nn

Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]
INPUTS: tuple[Shape, ...] = ((3, 8, 8), (5, 12))
LARGEST = 2048  # entries of a value
CHANNELS = st.sampled_from([4, 6, 8, 12])
KINDS = st.sampled_from(["block"] * 6 + ["join", "join", "again", "network"])
BACK = st.sampled_from([0] * 8 + [1, 2])  # how far before the last value a step reads
RARELY = st.integers(0, 4).map(lambda number: number == 4)


@dataclass(frozen=True)
class Block:
    """A kind of step: `build` draws a module for a shape that `takes` accepts; `exact` as in a `Case`."""

    build: Callable[[Draw, Shape], nn.Module]
    takes: Callable[[Shape], bool]
    exact: bool


BLOCKS: dict[str, Block] = {}


def block(
    *ranks: int, exact: bool = True, when: Callable[[Shape], bool] = lambda shape: True
) -> Callable[[Callable[[Draw, Shape], nn.Module]], Callable[[Draw, Shape], nn.Module]]:
    """Register a function that draws a module for values of these ranks, the batch dimension not counted."""

    def register(build: Callable[[Draw, Shape], nn.Module]) -> Callable[[Draw, Shape], nn.Module]:
        BLOCKS[build.__name__] = Block(build, lambda shape: len(shape) in ranks and when(shape), exact)
        return build

    return register


class Network(nn.Module):
    """A program: step i applies `steps[i]` to the values numbered `sources[i]`; value 0 is the input, of `shape`."""

    def __init__(
        self, shape: Shape, steps: Sequence[tuple[nn.Module, tuple[int, ...]]], results: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.shape = shape
        self.steps = nn.ModuleList(module for module, _ in steps)
        self.sources = tuple(sources for _, sources in steps)
        self.results = results

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        values = [x]
        for step, sources in zip(self.steps, self.sources, strict=True):
            values.append(step(*(values[source] for source in sources)))
        found = tuple(values[result] for result in self.results)
        return found[0] if len(found) == 1 else found

    def extra_repr(self) -> str:
        program = ", ".join(
            f"v{i} = steps.{i - 1}({', '.join(f'v{source}' for source in sources)})"
            for i, sources in enumerate(self.sources, start=1)
        )
        return f"v0: {self.shape}, {program}; returns {', '.join(f'v{result}' for result in self.results)}"


class Apply(nn.Module):
    """A function of one or two tensors as a module; `text` says which."""

    def __init__(self, text: str, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.text, self.function = text, function

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values)

    def extra_repr(self) -> str:
        return self.text


def axis(shape: Shape) -> int:
    """Where the channels are, the batch dimension counted."""
    return 2 if len(shape) == 2 else 1


def width(shape: Shape) -> int:
    return shape[axis(shape) - 1]


def even(shape: Shape) -> bool:
    return width(shape) % 2 == 0


def divisor(draw: Draw, number: int) -> int:
    return draw(st.sampled_from([d for d in range(1, number + 1) if number % d == 0]))


# --- layers -----------------------------------------------------------------------------------------------------


@block(3)
def convolution(draw: Draw, shape: Shape) -> nn.Module:
    stride = draw(st.sampled_from([1, 2])) if shape[1] >= 4 else 1
    return conv(
        shape[0], draw(CHANNELS), draw(st.sampled_from([1, 3])), stride=stride, bias=draw(st.booleans())
    )


@block(3)
def grouped_convolution(draw: Draw, shape: Shape) -> nn.Module:
    groups = divisor(draw, shape[0])
    return conv(shape[0], groups * draw(st.integers(1, max(1, 12 // groups))), groups=groups)


@block(3)
def depthwise_convolution(draw: Draw, shape: Shape) -> nn.Module:
    return conv(shape[0], shape[0] * draw(st.sampled_from([1, 2])), groups=shape[0])


@block(3, when=lambda shape: shape[1] <= 4)
def transposed_convolution(draw: Draw, shape: Shape) -> nn.Module:
    groups = math.gcd(shape[0], draw(st.sampled_from([1, 2, 4])))
    return nn.ConvTranspose2d(shape[0], 2 * groups, 2, stride=2, groups=groups)


@block(1, 2)
def linear(draw: Draw, shape: Shape) -> nn.Module:
    return nn.Linear(width(shape), draw(CHANNELS), bias=draw(st.booleans()))


@block(2, exact=False)
def token_mixer(draw: Draw, shape: Shape) -> nn.Module:
    return nn.Sequential(transpose(), nn.Linear(shape[0], shape[0]), transpose())


class FirstOf(nn.Module):
    """The first output of a module with several."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[0]


@block(2)
def recurrence(draw: Draw, shape: Shape) -> nn.Module:
    kind = draw(st.sampled_from([nn.LSTM, nn.GRU]))
    return FirstOf(
        kind(shape[1], draw(st.sampled_from([4, 6])), bidirectional=draw(st.booleans()), batch_first=True)
    )


class Attention(nn.Module):
    """Self-attention whose projections are one layer or three."""

    def __init__(self, channels: int, heads: int, head_dim: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        inner = heads * head_dim
        sizes = [3 * inner] if fused else [inner] * 3
        self.project = nn.ModuleList(nn.Linear(channels, size) for size in sizes)
        self.out = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        if len(self.project) == 1:
            parts = self.project[0](x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        else:
            parts = [layer(x).view(b, n, self.heads, self.head_dim).transpose(1, 2) for layer in self.project]
        q, k, v = parts
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@block(2)
def attention(draw: Draw, shape: Shape) -> nn.Module:
    heads = draw(st.sampled_from([1, 2, 4]))
    return Attention(shape[1], heads, draw(st.sampled_from([2, 3])), draw(st.booleans()))


class StreamAttention(nn.Module):
    """An attention module that is given one sequence as query, key and value."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@block(2, when=lambda shape: shape[1] % 2 == 0)
def torch_attention(draw: Draw, shape: Shape) -> nn.Module:
    return StreamAttention(nn.MultiheadAttention(shape[1], math.gcd(shape[1], 4), batch_first=True))


# --- norms and activations --------------------------------------------------------------------------------------


@block(3)
def batch_norm(draw: Draw, shape: Shape) -> nn.Module:
    return nn.BatchNorm2d(shape[0])


@block(3, when=lambda shape: shape[1] > 1)
def instance_norm(draw: Draw, shape: Shape) -> nn.Module:
    return nn.InstanceNorm2d(shape[0], affine=draw(st.booleans()), track_running_stats=draw(st.booleans()))


@block(3, exact=False)
def group_norm(draw: Draw, shape: Shape) -> nn.Module:
    return nn.GroupNorm(divisor(draw, shape[0]), shape[0])


@block(1, 2, exact=False)
def layer_norm(draw: Draw, shape: Shape) -> nn.Module:
    return draw(st.sampled_from([nn.LayerNorm, nn.RMSNorm]))(width(shape))


@block(3, exact=False)
def channels_last_norm(draw: Draw, shape: Shape) -> nn.Module:
    last = Apply("permute(0, 2, 3, 1)", lambda x: x.permute(0, 2, 3, 1))
    first = Apply("permute(0, 3, 1, 2)", lambda x: x.permute(0, 3, 1, 2))
    return nn.Sequential(last, nn.LayerNorm(shape[0]), first)


@block(1, 2, 3)
def activation(draw: Draw, shape: Shape) -> nn.Module:
    kinds = [nn.ReLU, nn.GELU, nn.Sigmoid, nn.SiLU, nn.Hardswish, nn.Tanh, nn.PReLU]
    return draw(st.sampled_from(kinds))()


@block(3)
def channel_prelu(draw: Draw, shape: Shape) -> nn.Module:
    return nn.PReLU(shape[0])


# --- gates ------------------------------------------------------------------------------------------------------


class Gated(nn.Module):
    """The input times a gate computed from it, which broadcasts."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x).sigmoid()


@block(3)
def squeeze_excite(draw: Draw, shape: Shape) -> nn.Module:
    few = draw(st.sampled_from([2, 4]))
    pool = nn.AdaptiveAvgPool2d(1)
    return Gated(nn.Sequential(pool, conv(shape[0], few, 1), nn.ReLU(), conv(few, shape[0], 1)))


@block(1, 2, 3)
def narrow_gate(draw: Draw, shape: Shape) -> nn.Module:
    return Gated(conv(shape[0], 1) if len(shape) == 3 else nn.Linear(width(shape), 1))


@block(1, 2, 3, when=even)
def glu(draw: Draw, shape: Shape) -> nn.Module:
    return nn.GLU(dim=axis(shape))


@block(1, 2)
def packed_swiglu(draw: Draw, shape: Shape) -> nn.Module:
    hidden = draw(CHANNELS)

    def gate(x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=-1)
        return F.silu(left) * right

    return nn.Sequential(
        nn.Linear(width(shape), 2 * hidden),
        Apply("silu(left) * right", gate),
        nn.Linear(hidden, width(shape)),
    )


# --- movement ---------------------------------------------------------------------------------------------------


@block(1, 2, 3, when=even)
def swapped_halves(draw: Draw, shape: Shape) -> nn.Module:
    dim = axis(shape)
    return Apply("cat(reversed(chunk(2)))", lambda x: torch.cat(x.chunk(2, dim)[::-1], dim))


@block(1, 2, 3, when=lambda shape: width(shape) > 1)
def unequal_split(draw: Draw, shape: Shape) -> nn.Module:
    dim, size = axis(shape), width(shape)
    first = draw(st.integers(1, size - 1))

    def split(x: Tensor) -> Tensor:
        left, right = x.split([first, size - first], dim)
        return torch.cat((left.tanh(), right, left), dim)

    return Apply(f"split([{first}, {size - first}])", split)


@block(1, 2, 3, when=even)
def sum_of_halves(draw: Draw, shape: Shape) -> nn.Module:
    dim = axis(shape)
    return Apply("sum(chunk(2))", lambda x: sum(x.chunk(2, dim)[1:], x.chunk(2, dim)[0]))


@block(1, 2, 3)
def padded_channels(draw: Draw, shape: Shape) -> nn.Module:
    before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    pad = (*(0, 0) * (len(shape) - axis(shape)), before, after)
    return Apply(f"pad({pad})", lambda x: F.pad(x, pad))


@block(1, 2, 3)
def flipped(draw: Draw, shape: Shape) -> nn.Module:
    return Apply("flip", lambda x: x.flip(axis(shape)))


@block(1, 2, 3)
def repeated(draw: Draw, shape: Shape) -> nn.Module:
    return Apply("repeat_interleave(2)", lambda x: x.repeat_interleave(2, dim=axis(shape)))


@block(1, 2, 3, when=even)
def channel_shuffle(draw: Draw, shape: Shape) -> nn.Module:
    dim = axis(shape)
    groups = draw(st.sampled_from([2, width(shape) // 2]))
    return Apply(
        f"shuffle({groups})",
        lambda x: x.unflatten(dim, (groups, -1)).transpose(dim, dim + 1).flatten(dim, dim + 1),
    )


@block(3, when=lambda shape: shape[0] % 4 == 0)
def pixel_shuffle(draw: Draw, shape: Shape) -> nn.Module:
    return nn.PixelShuffle(2)


@block(3, when=lambda shape: shape[1] % 2 == 0)
def pixel_unshuffle(draw: Draw, shape: Shape) -> nn.Module:
    return nn.PixelUnshuffle(2)


@block(3, when=lambda shape: shape[1] % 2 == 0)
def pool(draw: Draw, shape: Shape) -> nn.Module:
    return draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))(2)


@block(2, 3)
def moved_places(draw: Draw, shape: Shape) -> nn.Module:
    dim = 2 if len(shape) == 3 else 1
    return Apply(f"roll(1, {dim})", lambda x: x.roll(1, dim))


@block(1, 2, 3)
def scalars(draw: Draw, shape: Shape) -> nn.Module:
    return Apply("1 - x / 2", lambda x: 1 - x / 2)


@block(1, 2, 3, exact=False)
def channel_statistic(draw: Draw, shape: Shape) -> nn.Module:
    dim = axis(shape)
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda x: x - x.mean(dim, keepdim=True),
        "amax": lambda x: x - x.amax(dim, keepdim=True),
        "softmax": lambda x: x.softmax(dim),
    }
    kind = draw(st.sampled_from(sorted(kinds)))
    return Apply(kind, kinds[kind])


def transpose() -> nn.Module:
    return Apply("transpose(1, 2)", lambda x: x.transpose(1, 2))


# --- changes of rank --------------------------------------------------------------------------------------------


@block(3)
def image_to_sequence(draw: Draw, shape: Shape) -> nn.Module:
    return Apply("flatten(2).transpose(1, 2)", lambda x: x.flatten(2).transpose(1, 2))


@block(2, 3)
def flatten(draw: Draw, shape: Shape) -> nn.Module:
    return nn.Flatten()


@block(3)
def pool_and_flatten(draw: Draw, shape: Shape) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


@block(2)
def mean_of_tokens(draw: Draw, shape: Shape) -> nn.Module:
    return Apply("mean(1)", lambda x: x.mean(1))


@block(1, when=lambda shape: shape[0] % 4 == 0)
def vector_to_image(draw: Draw, shape: Shape) -> nn.Module:
    size = shape[0] // 4
    return draw(
        st.sampled_from(
            [
                Apply("view(len(x), -1, 2, 2)", lambda x: x.reshape(len(x), -1, 2, 2)),
                Apply(f"view(-1, {size}, 2, 2)", lambda x: x.reshape(-1, size, 2, 2)),
            ]
        )
    )


# --- the strategy -----------------------------------------------------------------------------------------------


def joins(shapes: Sequence[Shape]) -> list[tuple[str, tuple[int, int]]]:
    """List the pairs of values that can be joined, and how."""
    found = []
    for first, one in enumerate(shapes):
        for second in range(first + 1, len(shapes)):
            other = shapes[second]
            if one == other:
                found += [("add", (first, second)), ("multiply", (first, second))]
            if len(one) == len(other) and (one[1:] == other[1:] if axis(one) == 1 else one[0] == other[0]):
                found.append(("cat", (first, second)))
    return found


def joint(kind: str, shape: Shape) -> nn.Module:
    dim = axis(shape)
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "add": lambda x, y: x + y,
        "multiply": lambda x, y: x * y,
        "cat": lambda x, y: torch.cat((x, y), dim),
    }
    return Apply(kind, functions[kind])


@st.composite
def programs(draw: Draw, shape: Shape, exact: bool = False, longest: int = 7, depth: int = 1) -> Network:
    """Draw a network for values of `shape`, with networks in it down to `depth`; `exact`: no channel statistics."""
    shapes: list[Shape] = [shape]
    steps: list[tuple[nn.Module, tuple[int, ...]]] = []

    def add(module: nn.Module, sources: tuple[int, ...]) -> None:
        outcome = result_of(module, [shapes[source] for source in sources])
        if math.prod(outcome) <= LARGEST:
            steps.append((module, sources))
            shapes.append(outcome)

    if depth:  # a stem with channels that nothing else reads: there is always something to cut
        add(dense(shape, draw(CHANNELS), draw(CHANNELS)), (0,))
    for _ in range(draw(st.integers(1, longest))):
        kind = draw(KINDS)
        source = max(0, len(shapes) - 1 - draw(BACK))
        pairs = joins(shapes) if kind == "join" else []
        again = [m for m, (first, *rest) in steps if not rest and shapes[first] == shapes[source]]
        if pairs:
            name, pair = draw(st.sampled_from(pairs))
            add(joint(name, shapes[pair[0]]), pair)
        elif kind == "again" and again:
            add(draw(st.sampled_from(again)), (source,))
        elif kind == "network" and depth:
            add(draw(programs(shapes[source], exact, 3, depth - 1)), (source,))
        else:
            add(
                BLOCKS[draw(st.sampled_from(fitting(shapes[source], exact)))].build(draw, shapes[source]),
                (source,),
            )
    if depth:
        add(dense(shapes[-1], 4), (len(shapes) - 1,))
    last = len(shapes) - 1
    also = (draw(st.integers(1, last)),) if depth and draw(RARELY) else ()
    return Network(shape, steps, (last, *also))


def dense(shape: Shape, *widths: int) -> nn.Module:
    """Return plain layers for values of `shape`, with a ReLU between two."""
    layer = conv if len(shape) == 3 else nn.Linear
    chain: list[nn.Module] = []
    for inputs, outputs in pairwise((width(shape), *widths)):
        chain += [layer(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*chain[:-1])


def fitting(shape: Shape, exact: bool) -> list[str]:
    """List the blocks that take `shape`."""
    return [name for name, block in BLOCKS.items() if block.takes(shape) and (block.exact or not exact)]


@torch.no_grad()
def result_of(module: nn.Module, shapes: Sequence[Shape]) -> Shape:
    """Return the shape that `module` makes of values of `shapes`."""
    return tuple(module.eval()(*(torch.zeros(2, *shape) for shape in shapes)).shape[1:])


@st.composite
def networks(draw: Draw, exact: bool = False) -> Network:
    """Draw a network in eval mode, without constant parameters; with `exact`, without statistics over channels."""
    shape = draw(st.sampled_from(INPUTS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 99)))
        network = draw(programs(shape, exact))
        disturb(network)
    return network.eval()


def example(network: Network) -> Tensor:
    """Return two samples for `network`, always the same."""
    return torch.randn(2, *network.shape, generator=torch.Generator().manual_seed(0))
