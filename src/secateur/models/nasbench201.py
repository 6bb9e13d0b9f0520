"""The 15,625 networks of NAS-Bench-201 (Dong and Yang 2020), each defined by the six operations of its cell.

A cell has four nodes: node 0 is its input, and every later node is a sum of one operation on each earlier node.
`parse` reads either notation of a cell, `CELLS` is their number, and the model `nasbench201` builds the common
skeleton of the networks for CIFAR images around one.
"""

from __future__ import annotations

import ast
import itertools
import random
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.registry import Registry
from secateur.core.seeds import seed_of
from secateur.models.init import kaiming
from secateur.models.registry import model

CellOperations: TypeAlias = tuple[tuple[str, ...], ...]
"""The operations into nodes 1, 2 and 3, each in the order of the nodes they read."""

OPERATIONS: Registry[Callable[[int], nn.Module] | None] = Registry("operation of NAS-Bench-201")
"""Name → factory of the operation for a number of channels; None for the zero operation."""

NODES = 3
CELLS = 5 ** (NODES * (NODES + 1) // 2)
USUAL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
"""The default cell, of the benchmark's highest test accuracy on CIFAR-10."""


class ReLUConvBN(nn.Sequential):
    """ReLU, convolution, BatchNorm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        """Make the layers."""
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
        )


OPERATIONS.add("none", None)
OPERATIONS.add("skip_connect", lambda channels: nn.Identity())
OPERATIONS.add("nor_conv_1x1", lambda channels: ReLUConvBN(channels, channels, 1))
OPERATIONS.add("nor_conv_3x3", lambda channels: ReLUConvBN(channels, channels, 3))
OPERATIONS.add("avg_pool_3x3", lambda channels: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False))


def parse(arch: str) -> CellOperations:
    """Read a cell: `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`, or the same as a list of tuples (op, node).

    Raises `InputError` for anything else.

    >>> parse("[(('none', 0),), (('none', 0), ('skip_connect', 1)), (('none', 0), ('none', 1), ('none', 2))]")
    (('none',), ('none', 'skip_connect'), ('none', 'none', 'none'))
    """
    if not isinstance(arch, str):
        raise InputError(f"The cell {arch!r} is no text: write it as '{USUAL}'.")
    try:
        nodes = _from_tuples(arch) if arch.lstrip().startswith("[") else _from_bars(arch)
        cell = tuple(tuple(name for name, _ in node) for node in nodes)
        complete = [[source for _, source in node] for node in nodes] == [[0], [0, 1], [0, 1, 2]]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        complete = False
    if not complete:
        raise InputError(f"Cannot read the cell {arch[:120]!r}: write it as '{USUAL}'.")
    for name in itertools.chain(*cell):
        OPERATIONS[name]
    return cell


def _from_bars(arch: str) -> list[list[tuple[str, int]]]:
    edges = ([edge.partition("~") for edge in node.strip().strip("|").split("|")] for node in arch.split("+"))
    return [[(name, int(source)) for name, _, source in node] for node in edges]


def _from_tuples(arch: str) -> list[list[tuple[str, int]]]:
    return [[(str(name), int(source)) for name, source in node] for node in ast.literal_eval(arch)]


def written(cell: CellOperations) -> str:
    """Return a cell in the notation with bars.

    >>> written(parse(USUAL)) == USUAL
    True
    """
    return "+".join("|" + "".join(f"{name}~{i}|" for i, name in enumerate(node)) for node in cell)


def numbered(number: int) -> CellOperations:
    """Return cell `number` of 0..CELLS − 1: its base-5 digits, lowest first, are the operations in edge order."""
    names, edges = list(OPERATIONS), []
    for _ in range(NODES * (NODES + 1) // 2):
        number, digit = divmod(number, len(names))
        edges.append(names[digit])
    return tuple(edges[:1]), tuple(edges[1:3]), tuple(edges[3:])


def draw(count: int, seed: int = 0) -> list[CellOperations]:
    """Return `count` different random cells; a smaller count of the same seed gives a prefix of them.

    Raises `InputError` for a count outside 1..`CELLS`.
    """
    if not 1 <= count <= CELLS:
        raise InputError(f"NAS-Bench-201 has {CELLS:,} cells: draw 1 to {CELLS:,} of them, not {count:,}.")
    order = list(range(CELLS))
    random.Random(seed_of("nasbench201", seed)).shuffle(order)
    return [numbered(number) for number in order[:count]]


class CellModule(nn.Module):
    """One cell of C = `channels`: [N, C, H, W] → [N, C, H, W]."""

    def __init__(self, cell: CellOperations, channels: int) -> None:
        """Make the operations; `none` has no module."""
        super().__init__()
        self.edges = nn.ModuleDict()
        for node, names in enumerate(cell, start=1):
            for source, name in enumerate(names):
                make = OPERATIONS[name]
                if make is not None:
                    self.edges[f"{source}-{node}"] = make(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Sum the operations into each node, in turn, and return the last one."""
        nodes = [features]
        for node in range(1, NODES + 1):
            names = ((source, f"{source}-{node}") for source in range(node))
            made = [self.edges[name](nodes[source]) for source, name in names if name in self.edges]
            nodes.append(sum(made[1:], made[0]) if made else torch.zeros_like(features))
        return nodes[-1]


class Reduction(nn.Module):
    """A residual block of stride 2 that doubles the channels: [N, C, H, W] → [N, 2C, ⌈H / 2⌉, ⌈W / 2⌉]."""

    def __init__(self, channels: int) -> None:
        """Make the layers."""
        super().__init__()
        self.conv_a = ReLUConvBN(channels, 2 * channels, 3, stride=2)
        self.conv_b = ReLUConvBN(2 * channels, 2 * channels, 3)
        self.pool = nn.AvgPool2d(2, stride=2, ceil_mode=True)
        self.shortcut = nn.Conv2d(channels, 2 * channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return residual + shortcut."""
        shortcut: Tensor = self.shortcut(self.pool(features))
        residual: Tensor = self.conv_b(self.conv_a(features))
        return residual + shortcut


@model(
    "nasbench201",
    input_shape=(3, 32, 32),
    summary="any network of NAS-Bench-201; arch tells its cell",
    paper="Dong and Yang 2020, section 2.1",
)
class NasBench201(nn.Module):
    """Stem and three stages of `cells` equal cells with reductions between; [N, C, H, W] → [N, num_classes].

    The stages have 1, 2 and 4 times `channels` (default 16). Convolutions start from He's normal distribution or,
    with `initial="torch"`, from PyTorch's default. Raises `InputError` for a cell that can't be read or an unknown
    `initial`.
    """

    def __init__(
        self,
        arch: str = USUAL,
        num_classes: int = 10,
        in_channels: int = 3,
        channels: int = 16,
        cells: int = 5,
        initial: str = "kaiming",
    ) -> None:
        """Make the layers."""
        super().__init__()
        cell, widths = parse(arch), (channels, 2 * channels, 4 * channels)
        if initial not in ("kaiming", "torch"):
            raise InputError(f"There is no initial '{initial}' of nasbench201: choose kaiming or torch.")
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(CellModule(cell, width) for _ in range(cells))) for width in widths
        )
        self.reductions = nn.ModuleList(Reduction(width) for width in widths[:-1])
        self.norm = nn.BatchNorm2d(widths[-1])
        self.classifier = nn.Linear(widths[-1], num_classes)
        if initial == "kaiming":
            kaiming(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classify `images` [N, C, H, W]."""
        features = self.stages[0](self.stem(images))
        for reduction, stage in zip(self.reductions, list(self.stages)[1:], strict=True):
            features = stage(reduction(features))
        return self.classifier(F.relu(self.norm(features)).mean((2, 3)))  # type: ignore[no-any-return]
