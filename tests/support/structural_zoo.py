"""Small models, each with one thing that breaks structural pruners; every one runs in milliseconds.

`CASES` maps a name to a function that builds a fresh, seeded `Case` in eval mode. The docstring of a model says
what is hard about it. No tensor is left at a constant initial value: norms, biases and running statistics are
random, so that a wrong cut shows in the outputs. `min_removed` is the fraction of the parameters that must go at
least when half of the units of every group do; `exact` says that no statistic (norm, softmax, mean, maximum)
crosses the units, so that a unit whose weights are zero can go without changing anything.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, rnn
from torch.utils import _pytree as pytree

Inputs = Tensor | tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A model in eval mode with an input; `note` is what is hard about it."""

    model: nn.Module
    inputs: Inputs
    note: str
    min_removed: float = 0.3
    exact: bool = True


CASES: dict[str, Callable[[], Case]] = {}


def case(
    inputs: Callable[[], Inputs], *, min_removed: float = 0.3, exact: bool = True, **variants: dict[str, Any]
) -> Callable[[Any], Any]:
    """Register a model class (or a function that builds a model); each of `variants` is a name with its arguments."""

    def register(factory: Any) -> Any:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", factory.__name__).lower()
        for label, arguments in (variants or {name: {}}).items():
            assert label not in CASES, label
            CASES[label] = partial(_build, partial(factory, **arguments), inputs, min_removed, exact)
        return factory

    return register


def _build(
    factory: Callable[[], nn.Module], inputs: Callable[[], Inputs], min_removed: float, exact: bool
) -> Case:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = factory()
        disturb(model)
        note = (factory.func.__doc__ or "").strip()
        return Case(model.eval(), inputs(), note, min_removed, exact)


@torch.no_grad()
def disturb(model: nn.Module) -> None:
    """Make every constant parameter and running statistic of `model` random: equal values hide wrong indices."""
    running = ((name, buffer) for name, buffer in model.named_buffers() if "running_" in name)
    for _, tensor in (*model.named_parameters(), *running):
        if tensor.numel() > 1 and tensor.min() == tensor.max():
            tensor.add_(torch.rand_like(tensor), alpha=0.5)


def run(model: nn.Module, inputs: Inputs) -> Any:
    """Call `model` with a tensor, a tuple of positional arguments or a dict of keyword arguments."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def to_double(inputs: Inputs) -> Inputs:
    """Return `inputs` with every floating-point tensor in float64."""
    return pytree.tree_map_only(
        Tensor, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, inputs
    )


def form(outputs: Any) -> tuple[Any, list[Any]]:
    """Return the structure of `outputs` and the shape and dtype of every tensor in it."""
    leaves, structure = pytree.tree_flatten(outputs)
    return structure, [
        (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves
    ]


@torch.no_grad()
def zero_cut_units(model: nn.Module, groups: Iterable[Any], kept: Mapping[str, Mapping[int, Tensor]]) -> int:
    """Zero every unit that a plan cuts, in all that write it and all that read it; return how many units that is.

    A member of a group says of each index of one dimension of one tensor which unit it belongs to. A unit goes
    whole: the plan must cut its indices everywhere or nowhere.
    """
    tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    zeroed = 0
    for group in groups:
        cut = torch.zeros(group.units, dtype=torch.bool)
        places = []
        for member in group.members:
            gone = torch.ones(tensors[member.name].shape[member.dim], dtype=torch.bool)
            gone[kept.get(member.name, {}).get(member.dim, slice(None))] = False
            unit = torch.as_tensor(member.unit)
            cut[unit[gone & (unit >= 0)]] = True
            places.append((member.name, member.dim, unit, gone))
        for name, dim, unit, gone in places:
            goes = (unit >= 0) & cut[unit]
            assert torch.equal(goes, gone & (unit >= 0)), f"{name}, dimension {dim}: a unit is cut in part"
            if tensors[name].is_floating_point():
                tensors[name].index_fill_(dim, goes.nonzero().flatten(), 0)
        zeroed += int(cut.sum())
    return zeroed


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def sequences() -> Tensor:
    return torch.randn(2, 6, 8)


def vectors() -> Tensor:
    return torch.randn(4, 8)


def tokens() -> Tensor:
    return torch.randint(11, (2, 6))


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def classifier(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


# --- chains -----------------------------------------------------------------------------------------------------


@case(images)
def sequential() -> nn.Module:
    """Nothing but nn.Sequential: no forward of its own."""
    return nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), conv(8, 12), nn.Sigmoid(), *classifier(12)
    )


@case(images)
class FeatureMap(nn.Module):
    """The output is the feature map of a convolution: its channels must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 16), conv(16, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


@case(images, adaptive_pool_flatten={"pool": 2}, flatten_without_pool={"pool": 8})
class Flattened(nn.Module):
    """One channel feeds many columns of the linear layer after a flatten."""

    def __init__(self, pool: int) -> None:
        super().__init__()
        self.conv, self.norm = conv(3, 8), nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(pool) if pool < 8 else nn.Identity()
        self.hidden, self.head = nn.Linear(8 * pool * pool, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.pool(self.norm(self.conv(x)).relu()).flatten(1)).relu())


@case(images)
class LiteralView(nn.Module):
    """The sizes of the views are numbers in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.head = conv(3, 8), nn.Linear(128, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x), 2).reshape(2, 8, 16).view(-1, 128)
        return self.head(self.hidden(x).relu())


@case(images)
class ViewByChild(nn.Module):
    """The size of a view is an attribute of a child."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = conv(3, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().view(len(x), self.conv.out_channels, -1).sum(2))


@case(vectors, linear_view_conv={"literal": False}, linear_literal_view_conv={"literal": True})
class LinearViewConv(nn.Module):
    """A linear layer becomes a feature map, as in a generator: a channel is a block of its rows."""

    def __init__(self, literal: bool) -> None:
        super().__init__()
        self.literal, self.channels = literal, 16
        self.project, self.conv, self.last = nn.Linear(8, 16 * 4), conv(16, 8), conv(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        x = x.view(-1, 16, 2, 2) if self.literal else x.view(-1, self.channels, 2, 2)
        return self.last(F.interpolate(self.conv(x).relu(), scale_factor=2.0))


@case(images)
class EinopsReshape(nn.Module):
    """Patches are gathered as in einops: reshape to six dimensions, permute, reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix, self.head = conv(3, 8), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).tanh()
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, 4 * c)
        return self.head(self.mix(x).relu())


@case(images)
class PythonScalars(nn.Module):
    """Numbers of Python meet tensors in every order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.scale = conv(3, 16), classifier(16), 2.5

    def forward(self, x: Tensor) -> Tensor:
        x = 1 - self.conv(2 * x - 1) / self.scale
        return self.head(0.5 ** x.clamp(-3, 3) + x.abs() ** 1.5) * math.sqrt(2)


@case(images)
class FunctionalWeights(nn.Module):
    """Raw parameters go to F.conv2d, F.batch_norm and F.linear; no layer holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(16, 3, 3, 3) / 5)
        self.scale, self.shift = nn.Parameter(torch.rand(16) + 0.5), nn.Parameter(torch.randn(16))
        self.register_buffer("centre", torch.randn(16))
        self.register_buffer("spread", torch.rand(16) + 0.5)
        self.matrix, self.last = nn.Parameter(torch.randn(12, 16)), nn.Parameter(torch.randn(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel, padding=1)
        x = F.batch_norm(x, self.centre, self.spread, self.scale, self.shift).relu().mean((2, 3))
        return F.linear(x, self.matrix).relu() @ self.last


@case(vectors)
class BranchOnValue(nn.Module):
    """The value of an activation decides what is done: it can be known from a real forward alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu())
        return self.head(x.relu() if x.norm().item() > 0 else x)


# --- splitting and joining channels -----------------------------------------------------------------------------


@case(
    images,
    min_removed=0.2,
    channel_shuffle_literal={"literal": True},
    channel_shuffle_attributes={"literal": False},
)
class ChannelShuffle(nn.Module):
    """A ShuffleNet unit: half the channels pass by, the halves are joined and shuffled."""

    def __init__(self, literal: bool) -> None:
        super().__init__()
        self.literal, self.groups = literal, 2
        self.stem, self.head = nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), nn.ReLU()), classifier(16)
        self.branches = nn.ModuleList(self.branch() for _ in range(2))

    @staticmethod
    def branch() -> nn.Sequential:
        return nn.Sequential(conv(8, 8, 1), nn.ReLU(), conv(8, 8, groups=8), conv(8, 8, 1))

    def shuffle(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        if self.literal:
            return x.view(-1, 2, 8, 8, 8).transpose(1, 2).contiguous().view(-1, 16, 8, 8)
        return x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, -1, h, w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            still, moved = x.chunk(2, dim=1)
            x = self.shuffle(torch.cat((still, branch(moved)), dim=1))
        return self.head(x)


@case(images, min_removed=0.15)
class GroupedShuffle(nn.Module):
    """Grouped convolutions on both sides of a shuffle: every group reads something from every group."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = conv(3, 16), conv(16, 16, groups=4), conv(16, 16, groups=4)
        self.shuffle, self.head = nn.ChannelShuffle(4), classifier(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.shuffle(self.first(self.stem(x)).relu())).relu())


@case(images)
class PixelShuffle(nn.Module):
    """A channel after the pixel shuffle is four channels before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up, self.last = conv(3, 8), conv(8, 24), conv(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.pixel_shuffle(self.up(self.first(x).relu()), 2))


@case(images)
class PixelUnshuffle(nn.Module):
    """A channel before the unshuffle is four channels after it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.mix, self.head = (
            conv(3, 8),
            nn.PixelUnshuffle(2),
            conv(32, 8),
            classifier(8),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.down(self.first(x).relu())))


@case(images)
class LiteralSplit(nn.Module):
    """The sizes of a split are numbers in the code, and unequal."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.head = conv(3, 16), conv(6, 8), conv(10, 8), classifier(16)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(self.stem(x).relu(), [6, 10], dim=1)
        return self.head(torch.cat([self.left(left), self.right(right)], 1))


@case(images)
class ChunkedConsumers(nn.Module):
    """The halves of one convolution are read by different layers: half of what is left must come from each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.head = conv(3, 16), conv(8, 12), conv(8, 12), classifier(12)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        return self.head(self.left(left.relu()) + self.right(right.tanh()))


@case(images)
class Slices(nn.Module):
    """Slices with literal bounds, unbind and select of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.low, self.high = conv(3, 16), conv(8, 8), conv(8, 8)
        self.pairs, self.head = conv(8, 8), classifier(24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        one, two = x.unflatten(1, (8, 2)).unbind(2)
        return self.head(torch.cat((self.low(x[:, :8]), self.high(x[:, -8:]), self.pairs(one * two)), 1))


@case(images)
class ChannelPick(nn.Module):
    """One channel, picked by number, gates all: it must not become another one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.last, self.head = conv(3, 12), conv(12, 16), conv(16, 12), classifier(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).tanh()
        return self.head(self.last(self.mix(x).relu()) * x[:, 0].sigmoid()[:, None])


@case(images)
class EveryOther(nn.Module):
    """Even channels go one way and odd ones another: slices with a step."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.even, self.odd = conv(3, 8), conv(4, 16), conv(4, 16)
        self.last, self.head = conv(16, 12), classifier(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).tanh()
        return self.head(self.last(self.even(x[:, ::2]) + self.odd(x[:, 1::2]).relu()).relu())


@case(images, sorted_channels={"kind": "sort"}, largest_channels={"kind": "topk"})
class Ranked(nn.Module):
    """Channels are sorted, or the largest of them taken, at every pixel: their places mean something else then."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.mix, self.last, self.head = conv(3, 8), conv(4, 16), conv(16, 12), classifier(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        best = x.topk(4, dim=1).values if self.kind == "topk" else x.sort(dim=1).values[:, 4:]
        return self.head(self.last(self.mix(best).relu()).relu())


@case(images)
class DenseConnections(nn.Module):
    """DenseNet: every layer reads all earlier feature maps, joined, the input of the block among them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 8), classifier(20)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(4))
        self.layers = nn.ModuleList(conv(8 + 4 * i, 4) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=False):
            maps.append(layer(norm(torch.cat(maps, 1)).relu()))
        return self.head(self.norms[3](torch.cat(maps, 1)).relu())


@case(images)
class JoinedWithInput(nn.Module):
    """Channels of a convolution are joined with those of the input, which must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 16), conv(19, 16), classifier(19)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, self.first(x).relu()], dim=1)
        return self.head(torch.cat([self.second(y).relu(), x], dim=1))


@case(images, channel_roll={"kind": "roll"}, channel_flip={"kind": "flip"})
class MovedChannels(nn.Module):
    """Channels are rolled or flipped between two convolutions."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second, self.third, self.head = (
            conv(3, 16),
            conv(16, 16),
            conv(16, 16),
            classifier(16),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu())
        x = x.roll(3, dims=1) if self.kind == "roll" else x.flip(1)
        return self.head(self.third(x).relu())


@case(images)
class ChannelsByIndex(nn.Module):
    """A buffer holds the order in which channels are read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.head = (
            conv(3, 16),
            conv(16, 16),
            conv(16, 16),
            classifier(16),
        )
        self.register_buffer("order", torch.randperm(16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).index_select(1, self.order)
        return self.head(self.third(x).relu())


@case(images, repeat_interleave={"interleave": True}, repeat={"interleave": False})
class RepeatedChannels(nn.Module):
    """Every channel is read twice by the next convolution."""

    def __init__(self, interleave: bool) -> None:
        super().__init__()
        self.interleave = interleave
        self.first, self.second, self.head = conv(3, 8), conv(16, 12), classifier(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = x.repeat_interleave(2, dim=1) if self.interleave else x.repeat(1, 2, 1, 1)
        return self.head(self.second(x).relu())


@case(images)
class PaddedChannels(nn.Module):
    """F.pad adds channels of a constant between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 12), conv(16, 12), classifier(12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.first(x).relu(), (0, 0, 0, 0, 1, 3), value=0.5)
        return self.head(self.second(x).relu())


# --- residual streams -------------------------------------------------------------------------------------------


@case(images)
class ResidualStream(nn.Module):
    """Blocks add to one stream: all that write it and read it lose the same channels; one block changes the width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8)), classifier(12)
        self.blocks = nn.ModuleList(self.block(8, 8) for _ in range(2))
        self.wider, self.shortcut = self.block(8, 12), nn.Sequential(conv(8, 12, 1), nn.BatchNorm2d(12))

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Sequential:
        last = (conv(6, outputs, bias=False), nn.BatchNorm2d(outputs))
        return nn.Sequential(conv(inputs, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True), *last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu_(block(x) + x)
        return self.head(F.relu(self.wider(x) + self.shortcut(x)))


@case(
    images,
    zero_pad_attributes={"kind": "attributes"},
    zero_pad_derived={"kind": "derived"},
    zero_pad_literal={"kind": "literal"},
    zero_pad_assignment={"kind": "assignment"},
    zero_pad_cat={"kind": "cat"},
)
class ZeroPaddedShortcut(nn.Module):
    """A shortcut without weights: a narrow stream is padded with zero channels and added to a wide one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.planes, self.before, self.after = kind, 16, 4, 4
        self.stem, self.first, self.second = conv(3, 8), conv(8, 12, stride=2), conv(12, 16)
        self.norm, self.head = nn.BatchNorm2d(16), classifier(16)

    def pad(self, x: Tensor) -> Tensor:
        match self.kind:
            case "attributes":
                return F.pad(x, (0, 0, 0, 0, self.before, self.after))
            case "derived":
                return F.pad(x, (0, 0, 0, 0, self.planes // 4, self.planes // 4), "constant", 0)
            case "literal":
                return F.pad(x, (0, 0, 0, 0, 4, 4))
            case "assignment":
                out = x.new_zeros(x.shape[0], self.planes, *x.shape[2:])
                out[:, : x.shape[1]] = x
                return out
        return torch.cat((x, torch.zeros_like(x)), 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.norm(self.second(self.first(x).relu()))
        return self.head(F.relu(y + self.pad(x[:, :, ::2, ::2])))


@case(images)
class InplaceSlices(nn.Module):
    """In-place ops on a view of some channels change the whole tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side, self.last, self.head = conv(3, 16), conv(3, 8), conv(16, 8), classifier(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y[:, :8] += self.side(x)
        y[:, 8:].mul_(0.5).sub_(0.1)
        F.relu(y.add_(0.2), inplace=True)
        return self.head(self.last(y).relu_())


@case(sequences)
class SharedModule(nn.Module):
    """One module is used three times: its inputs and outputs are one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = x + self.shared(x).relu()
        return self.head(x)


@case(images)
class SharedBranches(nn.Module):
    """One convolution reads two different streams, as the head of a detector does."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = conv(3, 12), conv(3, 12, stride=2)
        self.shared, self.head = nn.Sequential(conv(12, 8), nn.ReLU()), conv(8, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.head(self.shared(level(x).relu())) for level in (self.fine, self.coarse)]


# --- convolutions -----------------------------------------------------------------------------------------------


@case(images)
class GroupedConv(nn.Module):
    """Four groups: either whole groups go, or the same number of channels from each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped, self.head = conv(3, 16), conv(16, 16, groups=4), classifier(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.grouped(self.stem(x).relu()).relu())


@case(images, depthwise={"multiplier": 1}, depthwise_multiplier={"multiplier": 2})
class Depthwise(nn.Module):
    """MobileNet: a depthwise convolution carries the channels of the one before, once or twice each."""

    def __init__(self, multiplier: int) -> None:
        super().__init__()
        wide = 12 * multiplier
        self.expand, self.depthwise = conv(3, 12, 1), conv(12, wide, groups=12)
        self.norm, self.project, self.head = nn.BatchNorm2d(wide), conv(wide, 8, 1), classifier(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.project(F.hardswish(self.norm(self.depthwise(F.relu6(self.expand(x)))))))


@case(images, transposed_conv={"groups": 1}, transposed_conv_grouped={"groups": 4})
class TransposedConv(nn.Module):
    """A transposed convolution has its outputs in the second dimension, by group."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.stem, self.last = conv(3, 16), conv(8, 3)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.up(self.stem(x).relu()).relu())


@case(images)
class TiedTransposed(nn.Module):
    """An autoencoder whose decoder uses the encoder's kernels: one tensor, its dimensions read in either order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.last = conv(3, 12), nn.Conv2d(12, 16, 2, 2), conv(12, 3)
        self.shift = nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.stem(x).relu()).relu()
        return self.last(F.conv_transpose2d(x, self.down.weight, self.shift, stride=2).relu())


@case(lambda: torch.randn(2, 3, 16))
class Conv1d(nn.Module):
    """Convolutions along time, one of them dilated and causal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 16, 3, padding=1), nn.Conv1d(16, 12, 3, dilation=2)
        self.norm, self.head = nn.BatchNorm1d(16), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(F.pad(self.norm(self.first(x)).relu(), (4, 0))).relu().transpose(1, 2))


@case(lambda: torch.randn(1, 2, 4, 6, 6))
class Conv3d(nn.Module):
    """Convolutions in space and time, factorised."""

    def __init__(self) -> None:
        super().__init__()
        self.space = nn.Conv3d(2, 12, (1, 3, 3), padding=(0, 1, 1))
        self.time, self.norm = nn.Conv3d(12, 8, (3, 1, 1)), nn.BatchNorm3d(12)
        self.pool, self.head = nn.AdaptiveMaxPool3d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.time(self.norm(self.space(x)).relu())).flatten(1))


@case(images)
class Im2col(nn.Module):
    """A convolution by hand: F.unfold, and a matrix that reads nine entries of every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 8), classifier(16)
        self.matrix = nn.Parameter(torch.randn(16, 72) / 8)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        columns = F.unfold(self.stem(x).relu(), 3, padding=1)
        return self.head((self.matrix @ columns).view(b, -1, h, w).relu())


@case(images)
class BlurPool(nn.Module):
    """A constant kernel is expanded to as many groups as the input has channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 12), conv(12, 12), classifier(12)
        self.channels = 12
        self.register_buffer("kernel", torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None] / 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = F.conv2d(x, self.kernel.expand(x.shape[1], 1, 3, 3), stride=2, groups=x.shape[1])
        x = self.second(x).relu()
        return self.head(F.conv2d(x, self.kernel.repeat(self.channels, 1, 1, 1), groups=self.channels))


class StandardisedConv(nn.Conv2d):
    """A convolution whose weight is standardised over its inputs before use."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        std = self.weight.std((1, 2, 3), keepdim=True, correction=0)
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), self.bias, padding=self.padding)


class NormalisedConv(nn.Conv2d):
    """A convolution whose weight goes through a batch normalisation, each filter a channel, before use."""

    def forward(self, x: Tensor) -> Tensor:
        flat = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True)
        return F.conv2d(x, flat.reshape_as(self.weight), self.bias, padding=self.padding)


@case(
    images,
    exact=False,
    weight_standardisation={"kind": StandardisedConv},
    weight_standardisation_by_norm={"kind": NormalisedConv},
)
class WeightStandardisation(nn.Module):
    """The weight that acts is a function of the parameter, with statistics over the inputs."""

    def __init__(self, kind: type[nn.Conv2d]) -> None:
        super().__init__()
        self.first, self.second = kind(3, 12, 3, padding=1), kind(12, 12, 3, padding=1)
        self.head = classifier(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu())


def old_weight_norm(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


REPARAMETRISATIONS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "old": old_weight_norm,
    "weight": parametrizations.weight_norm,
    "spectral": parametrizations.spectral_norm,
}


@case(
    images,
    exact=False,
    weight_norm_old={"kind": "old"},
    weight_norm_parametrised={"kind": "weight"},
    spectral_norm_parametrised={"kind": "spectral"},
)
class Reparametrised(nn.Module):
    """The weight is computed from other parameters, by a hook or by a parametrisation."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        wrap = REPARAMETRISATIONS[kind]
        self.first, self.second, self.head = wrap(conv(3, 12)), wrap(conv(12, 12)), wrap(nn.Linear(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


# --- gates ------------------------------------------------------------------------------------------------------


@case(images)
class SpatialMask(nn.Module):
    """A mask [B, 1, H, W] multiplies all channels: its one channel must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mask, self.last, self.head = conv(3, 12), conv(12, 1), conv(12, 8), classifier(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(self.last(x * self.mask(x).sigmoid()).relu())


@case(images, squeeze_excite_linear={"linear": True}, squeeze_excite_conv={"linear": False})
class SqueezeExcite(nn.Module):
    """A gate [B, C, 1, 1] computed from the channels it multiplies."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.stem, self.last, self.head = conv(3, 16), conv(16, 8), classifier(8)
        self.down = nn.Linear(16, 4) if linear else conv(16, 4, 1)
        self.up = nn.Linear(4, 16) if linear else conv(4, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        if self.linear:
            gate = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        else:
            gate = F.hardsigmoid(self.up(self.down(F.adaptive_avg_pool2d(x, 1)).relu()))
        return self.head(self.last(x * gate).relu())


@case(sequences)
class ScalarGate(nn.Module):
    """A sigmoid gate of width 1 scales each token; a learned scalar scales all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(8, 16), nn.Linear(16, 1), nn.Linear(16, 5)
        self.strength = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(x * self.gate(x).sigmoid() * self.strength)


@case(sequences, packed_swiglu={"glu": False}, packed_glu={"glu": True})
class PackedGatedMlp(nn.Module):
    """Gate and value are the halves of one linear layer: unit i goes with unit i + h."""

    def __init__(self, glu: bool) -> None:
        super().__init__()
        self.glu = glu
        self.stem, self.packed, self.out = nn.Linear(8, 8), nn.Linear(8, 32), nn.Linear(16, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.packed(self.stem(x).tanh())
        if self.glu:
            return self.out(F.glu(x))
        gate, value = x.chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


@case(lambda: (torch.randn(4, 8), torch.randn(4, 6)))
class Bilinear(nn.Module):
    """nn.Bilinear has two input dimensions; two tensors come in."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.join, self.head = (
            nn.Linear(8, 12),
            nn.Linear(6, 8),
            nn.Bilinear(12, 8, 10),
            nn.Linear(10, 5),
        )

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.join(self.left(left).relu(), self.right(right).relu()).tanh())


@case(lambda: 3 * torch.randn(16, 8))
class MixtureOfExperts(nn.Module):
    """Which rows an expert sees depends on the values; results come back through index_add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(8, 16), nn.Linear(16, 3), nn.Linear(16, 5)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 16)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        weights, chosen = self.gate(x).softmax(-1).topk(2)
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == number)
            mixed.index_add_(0, rows, expert(x[rows]) * weights[rows, place, None])
        return self.head(mixed)


# --- statistics over channels -----------------------------------------------------------------------------------


@case(images)
class SumOverChannels(nn.Module):
    """The channels are summed: any of them may go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.second, self.head = (
            conv(3, 16),
            nn.BatchNorm2d(16),
            conv(1, 8),
            classifier(8),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.stem(x)).relu().sum(1, keepdim=True)).relu())


@case(
    images,
    exact=False,
    mean_over_channels={"kind": "mean"},
    max_over_channels={"kind": "max"},
    softmax_over_channels={"kind": "softmax"},
    normalised_over_channels={"kind": "normalize"},
)
class ChannelStatistic(nn.Module):
    """A mean, maximum, softmax or norm over channels changes with their number."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.second, self.head = conv(3, 16), conv(17, 8), classifier(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        match self.kind:
            case "mean":
                y = x.mean(dim=1, keepdim=True)
            case "max":
                y = x.max(dim=1, keepdim=True).values
            case "softmax":
                y = (x.softmax(1) * x).sum(1, keepdim=True)
            case _:
                y = F.normalize(x, dim=1).sum(1, keepdim=True)
        return self.head(self.second(torch.cat((x, y), dim=1)).relu())


# --- norms ------------------------------------------------------------------------------------------------------


@case(images)
class InstanceNorm(nn.Module):
    """Instance norm with running statistics, which act in eval mode, and without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.running = conv(3, 12), nn.InstanceNorm2d(12, affine=True, track_running_stats=True)
        self.second, self.plain, self.head = conv(12, 8), nn.InstanceNorm2d(8), conv(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.plain(self.second(self.running(self.first(x)).relu())).relu())


@case(images, exact=False)
class GroupNorm(nn.Module):
    """Group norm wants the same number of channels in each of its groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.head = (
            conv(3, 16),
            nn.GroupNorm(4, 16),
            conv(16, 8),
            classifier(8),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.first(x)).relu()).relu())


@case(images, exact=False)
class ChannelsLastBlock(nn.Module):
    """ConvNeXt: layer norm after a permute, linear layers on the last dimension, a learned scale, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise, self.norm = conv(3, 12), conv(12, 12, groups=12), nn.LayerNorm(12)
        self.up, self.down, self.head = nn.Linear(12, 48), nn.Linear(48, 12), classifier(12)
        self.layer_scale = nn.Parameter(torch.ones(12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)
        return self.head(x + self.layer_scale * y)


class OwnRmsNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


@case(sequences, exact=False, rms_norm_own={"norm": OwnRmsNorm}, rms_norm={"norm": nn.RMSNorm})
class RmsNorm(nn.Module):
    """A norm of the user's own, or torch's, on a residual stream."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(8, 16), norm(16), nn.Linear(16, 5)
        self.up, self.down, self.last = nn.Linear(16, 24), nn.Linear(24, 16), norm(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.down(F.silu(self.up(self.norm(x))))
        return self.head(self.last(x))


@case(images, exact=False)
class ImageLayerNorm(nn.Module):
    """Layer norm over channels and pixels together: its parameters have three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = conv(3, 12), nn.LayerNorm((12, 8, 8)), conv(12, 8)
        self.head = classifier(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.first(x)).relu()).relu())


@case(images)
class ChannelPrelu(nn.Module):
    """One slope for each channel, and one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.each, self.second, self.all = conv(3, 12), nn.PReLU(12), conv(12, 8), nn.PReLU()
        self.head = classifier(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.all(self.second(self.each(self.first(x)))))


# --- recurrence -------------------------------------------------------------------------------------------------


def recurrent_variants() -> dict[str, dict[str, Any]]:
    """Each kind of layer plain, stacked and both ways, batch first or time first."""
    layouts: dict[str, dict[str, Any]] = {
        "": {},
        "_time_first": {"batch_first": False},
        "_stacked": {"num_layers": 2},
        "_both_ways": {"bidirectional": True},
        "_stacked_both_ways_time_first": {"num_layers": 2, "bidirectional": True, "batch_first": False},
    }
    return {
        kind.lower() + suffix: {"kind": kind, "batch_first": True, **options}
        for kind in ("LSTM", "GRU")
        for suffix, options in layouts.items()
    }


@case(
    sequences,
    **recurrent_variants(),
    rnn={"kind": "RNN", "batch_first": True},
    lstm_projected={"kind": "LSTM", "proj_size": 6, "batch_first": True},
)
class Recurrent(nn.Module):
    """A recurrent layer: a hidden unit is a row of every gate, a column of the recurrence, an entry of the state."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.stem, self.rnn = nn.Linear(8, 10), getattr(nn, kind)(10, 12, **options)
        width = options.get("proj_size", 12)
        ways = 2 if options.get("bidirectional") else 1
        self.head, self.tail = nn.Linear(width * ways, 5), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.rnn(self.stem(x))
        hidden = state[0] if isinstance(state, tuple) else state
        return self.head(y), self.tail(hidden[-1])


@case(
    lambda: (torch.randn(3, 6, 8), torch.tensor([4, 6, 1])),
    packed_lstm={"kind": "LSTM", "batch_first": True},
    packed_gru_both_ways={"kind": "GRU", "bidirectional": True, "num_layers": 2, "batch_first": True},
)
class Packed(nn.Module):
    """Sequences of several lengths, packed: as many steps as each has, and nothing for the padding."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        ways = 2 if options.get("bidirectional") else 1
        self.stem, self.rnn = nn.Linear(8, 10), getattr(nn, kind)(10, 12, **options)
        self.head, self.tail = nn.Linear(12 * ways, 5), nn.Linear(12, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = rnn.pack_padded_sequence(self.stem(x), lengths, batch_first=True, enforce_sorted=False)
        y, state = self.rnn(packed)
        hidden = state[0] if isinstance(state, tuple) else state
        return self.head(rnn.pad_packed_sequence(y, batch_first=True)[0]), self.tail(hidden[-1])


# --- attention --------------------------------------------------------------------------------------------------


@case(sequences)
class WideValues(nn.Module):
    """The values of the heads are wider than queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qk_dim, self.v_dim = 4, 4, 6
        self.q, self.k, self.v = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 24)
        self.out = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.qk_dim).transpose(1, 2)
        k = self.k(x).view(b, n, self.heads, self.qk_dim).permute(0, 2, 3, 1)
        v = self.v(x).view(b, n, self.heads, self.v_dim).transpose(1, 2)
        mixed = (q @ k / self.qk_dim**0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, n, self.heads * self.v_dim))


@case(
    sequences,
    fused_qkv_attributes={"kind": "attributes"},
    fused_qkv_derived={"kind": "derived"},
    fused_qkv_literal={"kind": "literal"},
    fused_qkv_chunk={"kind": "chunk"},
)
class FusedAttention(nn.Module):
    """Queries, keys and values come from one linear layer; the sizes of the heads are written in several ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.heads, self.head_dim, self.scale = kind, 4, 4, 4**-0.5
        self.stem, self.qkv, self.out, self.head = (
            nn.Linear(8, 16),
            nn.Linear(16, 48),
            nn.Linear(16, 16),
            nn.Linear(16, 5),
        )

    def split(self, x: Tensor) -> Iterable[Tensor]:
        b, n, c = x.shape
        qkv = self.qkv(x)
        match self.kind:
            case "attributes":
                return qkv.reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
            case "derived":
                return qkv.reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
            case "literal":
                return qkv.reshape(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4)
        return (part.view(b, n, self.heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, n, c = x.shape
        q, k, v = self.split(x)
        mixed = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1) @ v
        return self.head(x + self.out(mixed.transpose(1, 2).reshape(b, n, c)))


@case(
    lambda: torch.randn(2, 6, 16),
    fused_qkv_locked_width={"sdpa": False},
    fused_sdpa_locked_width={"sdpa": True},
)
class LockedWidthAttention(nn.Module):
    """The width of the stream is that of input and output and must stay, while heads go: C // heads is wrong then."""

    def __init__(self, sdpa: bool) -> None:
        super().__init__()
        self.sdpa, self.heads = sdpa, 4
        self.qkv, self.out = nn.Linear(16, 48, bias=False), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.sdpa:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1) @ v
        return x + self.out(mixed.transpose(1, 2).reshape(b, n, c))


@case(sequences, exact=False)
class ScaledAttention(nn.Module):
    """Attention with a scale of its own: features of queries and keys may go, and the scale stays what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 12) for _ in range(3))
        self.scale, self.out = self.q.out_features**-0.5, nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), scale=self.scale)
        return self.out(mixed)


@case(sequences)
class EinsumAttention(nn.Module):
    """Attention by einsum over raw parameters, one index for the head."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(4, 8, 3) / 3) for _ in range(3))
        self.out = nn.Parameter(torch.randn(4, 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bnd,hde->bhne", x, weight) for weight in (self.q, self.k, self.v))
        weights = torch.einsum("bhne,bhme->bhnm", q, k).div(3**0.5).softmax(-1)
        return torch.einsum("bhnm,bhme,hed->bnd", weights, v, self.out)


@case(sequences, mha_self={"kind": "self"}, mha_masked={"kind": "masked"}, mha_time_first={"kind": "time"})
class SelfAttention(nn.Module):
    """nn.MultiheadAttention on one stream, with and without masks, batch first or not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=kind != "time")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        options: dict[str, Any] = {}
        if self.kind == "masked":
            n = x.shape[1]
            options["attn_mask"] = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
            options["key_padding_mask"] = torch.zeros(len(x), n, dtype=torch.bool, device=x.device)
            options["need_weights"] = False
        return self.head(x + self.attention(x, x, x, **options)[0])


@case(
    lambda: (torch.randn(2, 6, 8), torch.randn(2, 4, 10)),
    mha_cross={"sizes": {}},
    mha_kdim_vdim={"sizes": {"kdim": 12, "vdim": 8}},
    mha_bias_kv={"sizes": {"add_bias_kv": True, "bias": False}},
)
class CrossAttention(nn.Module):
    """nn.MultiheadAttention between streams, with widths of their own for keys and values."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.query = nn.Linear(8, 16)
        self.key, self.value = nn.Linear(10, sizes.get("kdim", 16)), nn.Linear(10, sizes.get("vdim", 16))
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True, **sizes)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = self.query(x)
        mixed, _ = self.attention(x, self.key(memory), self.value(memory))
        return self.head(mixed.relu() + x)


@case(
    sequences,
    exact=False,
    encoder_layer={"norm_first": False},
    encoder_layer_norm_first={"norm_first": True},
    encoder_layer_literal_gelu={"norm_first": True, "activation": "gelu"},
)
class EncoderLayer(nn.Module):
    """nn.TransformerEncoderLayer takes a fused native path in eval mode, in which no part of it is called."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.stem(x)))


@case(lambda: (torch.randn(2, 6, 8), torch.randn(2, 4, 8)), exact=False)
class EncoderDecoder(nn.Module):
    """nn.Transformer: encoder and decoder stacks, final norms, cross attention, one width for all."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 5)
        self.transformer = nn.Transformer(16, 4, 1, 1, 24, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=target.dtype)
        return self.head(self.transformer(self.source(source), self.target(target), tgt_mask=mask))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


@case(tokens, **{f"grouped_query_{8 // kv}": {"kv_heads": kv} for kv in (8, 4, 2, 1)})
class GroupedQueryAttention(nn.Module):
    """Several query heads share a head of keys and values; rotary tables meet every head; a config is shared."""

    def __init__(self, kv_heads: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(heads=8, kv_heads=kv_heads, head_dim=4)
        self.embed, self.head = nn.Embedding(11, 16), nn.Linear(16, 11)
        self.q, self.out = nn.Linear(16, 32, bias=False), nn.Linear(32, 16, bias=False)
        self.k, self.v = (nn.Linear(16, 4 * kv_heads, bias=False) for _ in range(2))
        self.repeats = 8 // kv_heads
        self.register_buffer("frequencies", 100 ** (-torch.arange(0, 4, 2) / 4), persistent=False)

    def repeat(self, x: Tensor) -> Tensor:
        b, h, n, d = x.shape
        return x[:, :, None].expand(b, h, self.repeats, n, d).reshape(b, h * self.repeats, n, d)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        b, n, _ = x.shape
        angles = torch.arange(n, device=ids.device)[:, None] * self.frequencies
        cos, sin = (torch.cat((f(angles), f(angles)), dim=-1) for f in (torch.cos, torch.sin))
        q = self.q(x).view(b, n, self.config.heads, self.config.head_dim).transpose(1, 2)
        k = self.k(x).view(b, n, self.config.kv_heads, self.config.head_dim).transpose(1, 2)
        v = self.v(x).view(b, n, self.config.kv_heads, self.config.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, self.repeat(k), self.repeat(v), is_causal=True)
        return self.head(x + self.out(mixed.transpose(1, 2).reshape(b, n, -1)))


@case(images, window_attention={"shift": 0}, shifted_window_attention={"shift": 1})
class WindowAttention(nn.Module):
    """Swin: a map is rolled and cut into windows; biases come from a table, by an index kept in a buffer."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift, self.window, self.heads = shift, 2, 4
        self.stem, self.qkv, self.out, self.head = (
            conv(3, 16),
            nn.Linear(16, 48),
            nn.Linear(16, 16),
            classifier(16),
        )
        self.table = nn.Parameter(torch.randn(9, 4))
        at = torch.cartesian_prod(torch.arange(2), torch.arange(2))
        step = at[:, None] - at[None] + 1
        self.register_buffer("index", step[..., 0] * 3 + step[..., 1])

    def attend(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        weights = (q * 0.5 @ k.transpose(-2, -1) + bias[None]).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        s = self.window
        y = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        y = y.view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        y = self.attend(y).view(b, h // s, w // s, s, s, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1)
        y = torch.roll(y, (self.shift, self.shift), dims=(1, 2))
        return self.head((x + y).permute(0, 3, 1, 2))


@case(images)
class WindowPartition(nn.Module):
    """A map is cut into windows with literal sizes and put together again; a layer mixes the pixels of a window."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.channel, self.head = (
            conv(3, 12),
            nn.Linear(4, 4),
            nn.Linear(12, 12),
            classifier(12),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        windows = x.view(2, 4, 2, 4, 2, 12).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 12)
        windows = self.channel(self.mix(windows.transpose(1, 2)).relu().transpose(1, 2))
        x = x + windows.reshape(2, 4, 4, 2, 2, 12).permute(0, 1, 3, 2, 4, 5).reshape(2, 8, 8, 12)
        return self.head(x.permute(0, 3, 1, 2))


# --- embeddings -------------------------------------------------------------------------------------------------


@case(images)
class ClassToken(nn.Module):
    """A class token is expanded and joined, position embeddings are added: parameters with dimensions of size 1."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.up, self.down = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 24), nn.Linear(24, 16)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.mix, self.head = nn.Linear(5, 5), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(len(x), -1, -1), x), dim=1) + self.positions
        x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.down(F.gelu(self.up(x))))[:, 0])


@case(tokens)
class Embeddings(nn.Module):
    """Embeddings of words, positions and kinds are summed; one word is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.kinds = (
            nn.Embedding(11, 16, 0),
            nn.Embedding(6, 16),
            nn.Embedding(2, 16),
        )
        self.hidden, self.head = nn.Linear(16, 12), nn.Linear(12, 5)
        self.register_buffer("numbers", torch.arange(6)[None])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(self.numbers[:, : ids.shape[1]]) + self.kinds(ids % 2)
        return self.head(self.hidden(x).relu())


@case(tokens, tied_embeddings={"functional": False}, tied_embeddings_functional={"functional": True})
class TiedEmbeddings(nn.Module):
    """A language model whose last layer is the embedding: one parameter, read in two ways."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.functional = functional
        self.embed, self.up, self.down = nn.Embedding(11, 16), nn.Linear(16, 24), nn.Linear(24, 16)
        if not functional:
            self.head = nn.Linear(16, 11, bias=False)
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.down(self.up(x).relu())
        return F.linear(x, self.embed.weight) if self.functional else self.head(x)


# --- inputs and outputs -----------------------------------------------------------------------------------------


@case(images)
class NestedOutputs(nn.Module):
    """The output is a dict with a tuple, a list and a number in it; a hidden feature map is among them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.head = conv(3, 16), conv(16, 8), conv(8, 16), classifier(16)

    def forward(self, x: Tensor) -> dict[str, Any]:
        first = self.first(x).relu()
        second = self.second(first).relu()
        third = self.third(second).relu()
        return {"logits": self.head(third), "maps": (second, [third.sum((1, 2, 3))]), "stride": 1}


@case(
    lambda: {"ids": torch.randint(11, (2, 6)), "mask": torch.tensor([[True] * 6, [True] * 4 + [False] * 2])},
)
class KeywordInputs(nn.Module):
    """Called with keyword arguments, a boolean mask among them, and one that is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(11, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, *, mask: Tensor, ids: Tensor, scale: float = 0.5) -> Tensor:
        x = self.hidden(self.embed(ids) * scale).relu().masked_fill(~mask[..., None], 0)
        return self.head(x.sum(1) / mask.sum(1, keepdim=True))


@case(lambda: (torch.randn(2, 3, 8, 8), torch.randn(2, 6)))
class TwoInputs(nn.Module):
    """A vector scales and shifts the channels of an image (FiLM)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.film, self.last, self.head = conv(3, 12), nn.Linear(6, 24), conv(12, 8), classifier(8)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, 1)
        return self.head(self.last(torch.relu(self.stem(image) * (1 + scale) + shift)).relu())


@case(images)
class ListOutput(nn.Module):
    """A feature pyramid: lateral convolutions, upsampled sums, a list of maps."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = conv(3, 12), conv(12, 16, stride=2)
        self.laterals = nn.ModuleList((conv(12, 8, 1), conv(16, 8, 1)))
        self.outputs = nn.ModuleList(conv(8, 4) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x).relu()
        low = self.laterals[1](self.coarse(fine).relu())
        high = self.laterals[0](fine) + F.interpolate(low, size=fine.shape[-2:], mode="nearest")
        return [layer(level) for layer, level in zip(self.outputs, (high, low), strict=True)]
