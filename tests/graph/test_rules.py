"""Each kind of operator unites, locks and passes on what it should, and labels move as data does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.graph.couple import couple
from secateur.graph.coupling import Coupling
from secateur.graph.operators import OPERATORS
from secateur.graph.rules.movement import factors
from secateur.graph.trace import trace

Groups = dict[str, tuple[int, set[str]]]


class Code(nn.Module):
    """A model that runs a function; tensors it holds become parameters."""

    def __init__(self, code: Callable[..., Any], **held: Any) -> None:
        super().__init__()
        self.code = code
        for name, value in held.items():
            setattr(self, name, nn.Parameter(value) if isinstance(value, Tensor) else value)

    def forward(self, *inputs: Any) -> Any:
        return self.code(self, *inputs)


def free(code: Callable[..., Any], *inputs: Tensor, **held: Any) -> Groups:
    """Return the groups that may be cut: name → number of units, and all "tensor.dimension" they run through."""
    groups = secateur.analyze(Code(code, **held), inputs).free
    found = {
        group.name.partition("#")[0]: (
            group.units,
            {f"{member.name}.{member.dim}" for member in group.members},
        )
        for group in groups
    }
    assert len(found) == len(groups)
    return found


def stuck(code: Callable[..., Any], *inputs: Tensor, **held: Any) -> dict[str, str]:
    """Return "tensor.dimension" → why it must stay, for all that must and is no output."""
    groups = secateur.analyze(Code(code, **held), inputs)
    return {
        f"{member.name}.{member.dim}": group.lock.reason
        for group in groups
        for member in group.members
        if group.lock is not None and group.lock.reason != "it is an output of the model"
    }


# Movement: the oracle moves the number of each entry, and asks whether entries go exactly with their labels.


def moved(code: Callable[..., Tensor], **shapes: tuple[int, ...]) -> tuple[Coupling, Tensor, list[Any]]:
    """Couple a function of parameters; return the coupling, the number of each output entry, and its vectors.

    Entries of parameters are numbered from 1, one parameter after the other; 0 is a constant's.
    """
    program = trace(Code(code, **{name: torch.zeros(shape) for name, shape in shapes.items()}), ())
    (output,), program.outputs = program.outputs, []
    coupling, numbered, start = couple(program), {}, 1
    for name, shape in shapes.items():
        count = int(np.prod(shape))
        numbered[name] = torch.arange(start, start + count, dtype=torch.float64).reshape(shape)
        start += count
    with torch.no_grad():
        return coupling, Code(code, **numbered)().long(), list(coupling.dims[output])


def labels_of_entries(coupling: Coupling, shape: tuple[int, ...], dims: list[Any]) -> np.ndarray:
    """Return the representatives of the labels of each entry's coordinates, [entries, dimensions]; 0 for none."""
    grids = np.meshgrid(
        *(
            np.zeros(size, dtype=np.int64) if vector is None else coupling.labels.find(vector)
            for size, vector in zip(shape, dims, strict=True)
        ),
        indexing="ij",
    )
    return np.stack([grid.ravel() for grid in grids], 1) if grids else np.zeros((1, 1), dtype=np.int64)


def check_movement(code: Callable[..., Tensor], **shapes: tuple[int, ...]) -> set[int]:
    """See that an output entry goes with a unit exactly where the entry it is does; return the free units."""
    coupling, entries, dims = moved(code, **shapes)
    for size, vector in zip(entries.shape, dims, strict=True):
        assert vector is None or len(vector) == size
    program = coupling.program
    before = [
        labels_of_entries(coupling, program.values[index].shape, coupling.dims[index])
        for index in program.tensors.values()
    ]
    after = labels_of_entries(coupling, tuple(entries.shape), dims)
    lock, _ = coupling.labels.locked()
    units = {int(root) for labels in before for root in np.unique(labels) if root and lock[root] < 0}
    source = entries.numpy().ravel()
    for unit in units:
        gone = np.concatenate([[False], *((labels == unit).any(1) for labels in before)])
        out = (after == unit).any(1)
        np.testing.assert_array_equal(out[source > 0], gone[source][source > 0])
    return units


EXACT: dict[str, Callable[..., Tensor]] = {
    "permute": lambda m: m.p.permute(2, 0, 1),
    "transpose": lambda m: m.p.transpose(-1, 0),
    "movedim": lambda m: m.p.movedim(0, 1),
    "unsqueeze": lambda m: m.p.unsqueeze(1).unsqueeze(-1),
    "squeeze": lambda m: m.p[None].squeeze(),
    "flip": lambda m: m.p.flip(0, 2),
    "range": lambda m: m.p[:, 1:],
    "ranges": lambda m: m.p[:2, :, 2:],
    "cat": lambda m: torch.cat([m.p, m.p], 2),
    "merge with size 1": lambda m: m.p.reshape(2, 1, 3, 4).view(2, 3, 1, 4),
    "repeat": lambda m: m.p.repeat(1, 2, 3),
    "expand": lambda m: m.p[:, None].expand(2, 5, 3, 4),
    "clone": lambda m: m.p.clone().contiguous(),
}


@pytest.mark.parametrize("name", EXACT)
def test_labels_move_like_the_entries(name: str) -> None:
    coupling, entries, dims = moved(EXACT[name], p=(2, 3, 4))
    index = coupling.program.tensors["p"]
    before = labels_of_entries(coupling, (2, 3, 4), coupling.dims[index])
    real = set(before.ravel().tolist())
    assert len(real) == 2 + 3 + 4, "nothing is united"
    reasons = {lock.reason for lock in coupling.labels.locked()[1]}
    assert reasons <= {"these example inputs reach only a part of it"}
    after = labels_of_entries(coupling, tuple(entries.shape), dims)
    for labels, source in zip(after, entries.ravel().tolist(), strict=True):
        assert set(labels.tolist()) & real == set(before[source - 1].tolist())


def test_joined_tensors_keep_their_own_labels() -> None:
    units = check_movement(lambda m: torch.cat([m.p, m.q, m.p], 1), p=(4, 3), q=(4, 5))
    assert len(units) == 4 + 3 + 5


FREE_AFTER: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], int]] = {
    "split into heads": (lambda m: m.p.view(5, 2, 3), (5, 6), 5 + 2),
    "split in three": (lambda m: m.p.view(2, 3, 4), (24,), 2),
    "the free part is the unit": (lambda m: m.p.view(3, -1), (12,), 4),
    "merged with a batch": (lambda m: m.p.reshape(10, 3), (10, 3), 13),
    "merged": (lambda m: m.p.flatten(), (4, 5), 4),
    "chunks": (lambda m: torch.stack(m.p.chunk(2, 1)), (3, 8), 3 + 4),
    "split by sizes": (lambda m: torch.cat(m.p.split([3, 5], 1)[::-1], 1), (3, 8), 3 + 8),
    "unequal parts": (lambda m: torch.cat(m.p.split(3, 1), 1), (3, 8), 3),
    "stack": (lambda m: torch.stack([m.p, m.p.flip(0)], 1), (4, 3), 2 + 3),
    "one index": (lambda m: m.p.select(0, 1), (4, 3), 3),
    "taken apart": (lambda m: torch.stack(m.p.unbind(1)), (4, 3), 4),
    "every other": (lambda m: m.p[::2], (6, 3), 3),
    "roll": (lambda m: m.p.roll(1, 0), (6, 3), 3),
    "pad": (lambda m: F.pad(m.p, (1, 2)), (6, 3), 9),
    "crop": (lambda m: F.pad(m.p, (-1, 0)), (6, 3), 6),
    "pixel shuffle": (lambda m: F.pixel_shuffle(m.p, 2), (2, 8, 3, 3), 2 + 2),
    "pixel unshuffle": (lambda m: F.pixel_unshuffle(m.p, 2), (2, 3, 4, 4), 2 + 3),
    "channel shuffle": (lambda m: F.channel_shuffle(m.p, 2), (3, 8, 2, 2), 3 + 4 + 2 + 2),
    "repeat interleave": (lambda m: m.p.repeat_interleave(2, 1), (3, 4), 7),
    "unfold": (lambda m: m.p.unfold(1, 2, 1), (3, 4), 3),
    "triangle": (lambda m: m.p.tril(), (3, 4, 4), 3),
    "diagonal": (lambda m: m.p.diagonal(dim1=-2, dim2=-1), (3, 4, 4), 3),
    "as real": (lambda m: torch.view_as_real(torch.view_as_complex(m.p)), (5, 2), 5),
    "windows": (lambda m: F.unfold(m.p, 2), (2, 3, 4, 4), 2 + 3),
    "nothing": (lambda m: m.p.tile(1), (4, 3), 7),
}


@pytest.mark.parametrize("name", FREE_AFTER)
def test_a_movement_leaves_so_many_units_free(name: str) -> None:
    code, shape, count = FREE_AFTER[name]
    assert len(check_movement(code, p=shape)) == count


@pytest.mark.parametrize("dims", [(0, 1), (0, 2), (2, 0), (1, 0), (-1, 1)])
def test_a_diagonal_of_any_two_dimensions(dims: tuple[int, int]) -> None:
    code = lambda m: torch.diagonal(m.p, dim1=dims[0], dim2=dims[1])  # noqa: E731
    assert len(check_movement(code, p=(4, 5, 6))) == next(
        n for at, n in enumerate((4, 5, 6)) if at not in (dims[0] % 3, dims[1] % 3)
    )


def splits(size: int) -> list[tuple[int, int]]:
    return [(a, size // a) for a in range(1, size + 1) if size % a == 0]


def movement(kind: str, number: int, t: Tensor, other: Tensor) -> Tensor:
    """Move a tensor in the way `number` says, among those of a kind."""
    at = number % max(1, t.ndim)
    if kind == "permute":
        order = sorted(range(t.ndim), key=lambda dim: (number >> dim & 3, dim))
        return t.permute(order)
    if kind == "flatten":
        return t.flatten(min(at, max(0, t.ndim - 2)), min(at + 1, t.ndim - 1)) if t.ndim > 1 else t
    if kind == "reshape":
        sizes = splits(t.shape[at])
        a, b = sizes[number // 7 % len(sizes)]
        literal = (*t.shape[:at], a, b, *t.shape[at + 1 :])
        return t.reshape(*t.shape[:at], -1, b, *t.shape[at + 1 :]) if number % 2 else t.reshape(literal)
    if kind == "unsqueeze":
        return t.unsqueeze(at)
    if kind == "expand":
        return t.unsqueeze(at).expand(*t.shape[:at], 2, *t.shape[at:])
    if kind == "slice":
        start = number // 3 % t.shape[at]
        return t.narrow(at, start, max(1, (t.shape[at] - start) // 2))
    if kind == "flip":
        return t.flip(at)
    if kind == "chunk":
        return t.chunk(2, at)[number // 3 % 2] if t.shape[at] % 2 == 0 else t
    if kind == "cat":
        same = t.shape[:at] == other.shape[:at] and t.shape[at + 1 :] == other.shape[at + 1 :]
        return torch.cat([t, other if same and t.ndim == other.ndim else t], at)
    if kind == "repeat":
        return t.repeat(*(2 if dim == at else 1 for dim in range(t.ndim)))
    if kind == "pad":
        return F.pad(t, (number % 2, number // 2 % 2))
    if kind == "stack":
        return torch.stack([t, t], at)
    return t[number % t.shape[0]] if t.ndim > 1 else t


KINDS = [
    "permute", "flatten", "reshape", "unsqueeze", "expand", "slice", "flip", "chunk", "cat", "repeat", "pad",
    "stack", "select",
]  # fmt: skip


def mixture(model: Code, steps: list[tuple[str, int]]) -> Tensor:
    """Move p, with q at hand to be joined, step by step while it stays small."""
    value, other = model.get_parameter("p"), model.get_parameter("q")
    for kind, number in steps:
        after = movement(kind, number, value, other)
        if after.ndim <= 6 and 0 < after.numel() <= 600:
            value, other = after, value
    return value


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 999)), max_size=6))
def test_labels_follow_any_mixture_of_movements(steps: list[tuple[str, int]]) -> None:
    check_movement(partial(mixture, steps=steps), p=(4, 3, 6), q=(4, 5, 6))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 6), max_size=4), st.integers(0, 2**32 - 1))
def test_a_reshape_falls_into_runs_of_equal_size(old: list[int], seed: int) -> None:
    primes, random = [], np.random.default_rng(seed)
    for size in old:
        primes += {1: [1], 4: [2, 2], 6: [2, 3]}.get(size, [size])
    random.shuffle(primes)
    cuts = sorted(random.integers(0, len(primes) + 1, 2))
    new = [int(np.prod(part)) for part in np.split(np.array(primes, dtype=int), cuts)]
    runs = list(factors(tuple(old), tuple(new)))
    assert [at for left, _ in runs for at in left] == list(range(len(old)))
    assert [at for _, right in runs for at in right] == list(range(len(new)))
    for left, right in runs:
        assert np.prod([old[at] for at in left]) == np.prod([new[at] for at in right])
        done = {int(np.prod([old[at] for at in left[:n]])) for n in range(1, len(left))}
        assert not done & {int(np.prod([new[at] for at in right[:n]])) for n in range(1, len(right))} - {1}


# Pointwise operators: what meets is one.

X, Y = torch.randn(2, 4), torch.randn(2, 6)
A, B, C = torch.randn(4, 6), torch.randn(4, 6), torch.randn(6, 2)
UNITES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, b: a + b,
    "add in place": lambda a, b: a.add_(b, alpha=2),
    "mul and others": lambda a, b: a * b.sigmoid().tanh() - b.exp(),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "maximum": torch.maximum,
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "addcmul": lambda a, b: torch.addcmul(a, b, b),
    "masked fill": lambda a, b: a.masked_fill(b > 0, 0.0),
    "copy": lambda a, b: torch.empty(2, 6).copy_(a) + b,
    "written to a range": lambda a, b: F.pad(a, (0, 0, 1, 0))[1:] * b,
    "atan2": torch.atan2,
    "stack and sum": lambda a, b: torch.stack([a, b]).sum(0),
    "outer and back": lambda a, b: (a[:, :, None] * b[:, :, None]).mean(2),
}


@pytest.mark.parametrize("name", UNITES)
def test_what_meets_is_one(name: str) -> None:
    groups = free(lambda m, x: UNITES[name](x @ m.a, x @ m.b) @ m.c, X, a=A, b=B, c=C)
    assert groups == {"a": (6, {"a.1", "b.1", "c.0"})}


def test_the_halves_of_a_gate_are_one() -> None:
    groups = free(lambda m, x: F.glu(torch.cat([x @ m.a, x @ m.b], 1), 1) @ m.c, X, a=A, b=B, c=C)
    assert groups == {"a": (6, {"a.1", "b.1", "c.0"})}


APART: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "joined": lambda a, b: torch.cat([a, b], 1),
    "a number of it": lambda a, b: torch.cat([a * b.sum(), b], 1),
    "one for each sample": lambda a, b: torch.cat([a / b.norm(dim=1, keepdim=True), b], 1),
}


@pytest.mark.parametrize("name", APART)
def test_what_does_not_meet_stays_apart(name: str) -> None:
    groups = free(lambda m, x: APART[name](x @ m.a, x @ m.b) @ m.c, X, a=A, b=B, c=torch.randn(12, 2))
    assert groups == {"a": (6, {"a.1", "c.0"}), "b": (6, {"b.1", "c.0"})}


def test_a_dimension_of_one_meets_nothing() -> None:
    groups = free(
        lambda m, x: ((x @ m.a) * m.gain * m.one + m.bias) @ m.c,
        X, a=A, c=C, gain=torch.randn(2, 1), one=torch.randn(1), bias=torch.randn(1, 6),
    )  # fmt: skip
    assert groups == {"a": (6, {"a.1", "bias.1", "c.0"})}


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (lambda m, y: y, "it meets a size that must stay"),
        (lambda m, y: torch.arange(6.0), "it meets a size that must stay"),
        (
            lambda m, y: torch.cat([y[:, :2], torch.arange(4.0).expand(2, 4)], 1),
            "it meets a size that must stay",
        ),
        (lambda m, y: torch.zeros(6), None),
        (lambda m, y: torch.full((2, 6), 0.5), None),
        (lambda m, y: y[:, :1], None),
        (lambda m, y: y.sum(), None),
    ],
)
def test_inputs_and_patterns_must_stay_and_plain_constants_follow(other: Any, reason: str | None) -> None:
    code = lambda m, x, y: (x @ m.a + other(m, y)) @ m.c  # noqa: E731
    assert (stuck(code, X, Y, a=A, c=C).get("a.1")) == reason
    assert ("a" in free(code, X, Y, a=A, c=C)) == (reason is None)


def test_a_part_that_meets_a_fixed_index_stays_and_the_rest_goes() -> None:
    def code(m: Any, x: Tensor, y: Tensor) -> Tensor:
        return (x @ m.a + torch.cat([y[:, :2], y @ m.b], 1)) @ m.c

    groups = secateur.analyze(Code(code, a=A, b=torch.randn(6, 4), c=C), (X, Y))
    assert [(group.units, group.members[0].unit.tolist()) for group in groups.free] == [
        (4, [-1, -1, 0, 1, 2, 3])
    ]
    assert stuck(code, X, Y, a=A, b=torch.randn(6, 4), c=C)["a.1"] == "it meets an index that must stay"


# Contractions: what is summed over is one, the rest is passed on.

CHAINS: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "mm": (lambda m, x: x @ m.a @ m.c, {}),
    "linear": (lambda m, x: F.linear(F.linear(x, m.a.T), m.c.T), {}),
    "addmm": (lambda m, x: torch.addmm(torch.zeros(2), x @ m.a, m.c), {}),
    "einsum": (lambda m, x: torch.einsum("bi,ij,jk->bk", x, m.a, m.c), {}),
    "bmm": (lambda m, x: torch.bmm(x[None] @ m.a, m.c[None])[0], {}),
    "baddbmm": (lambda m, x: torch.baddbmm(torch.zeros(1, 2, 2), x[None] @ m.a, m.c[None]), {}),
    "mv": (lambda m, x: torch.stack([(m.c.T @ (x @ m.a)[0]), torch.mv(m.c.T, (x @ m.a)[1])]), {}),
    "tensordot": (lambda m, x: torch.tensordot(x @ m.a, m.c, 1), {}),
    "by hand": (lambda m, x: ((x @ m.a)[:, :, None] * m.c).sum(1), {}),
    "weights first": (lambda m, x: x @ (m.a @ m.c), {}),
    "conv of one": (lambda m, x: F.conv1d((x @ m.a)[:, :, None], m.c.T[:, :, None])[..., 0], {}),
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_summed_over_is_one(name: str) -> None:
    code, held = CHAINS[name]
    assert free(code, X, a=A, c=C, **held) == {"a": (6, {"a.1", "c.0"})}
    reasons = stuck(code, X, a=A, c=C, **held)
    assert set(reasons) == {"a.0"}


def layers(*modules: nn.Module) -> dict[str, Any]:
    return {"layers": nn.Sequential(*modules)}


def through(m: Any, x: Tensor) -> Tensor:
    return m.layers(x)


IMAGE = torch.randn(2, 3, 8, 8)
CONVOLUTIONS: dict[str, tuple[list[nn.Module], Groups]] = {
    "plain": (
        [nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)],
        {"layers.0.weight": (6, {"layers.0.weight.0", "layers.0.bias.0", "layers.1.weight.1"})},
    ),
    "transposed": (
        [nn.ConvTranspose2d(3, 6, 3), nn.ConvTranspose2d(6, 2, 1)],
        {"layers.0.weight": (6, {"layers.0.weight.1", "layers.0.bias.0", "layers.1.weight.0"})},
    ),
    "depthwise with multiplier": (
        [nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.Conv2d(8, 2, 1)],
        {"layers.0.weight": (4, {"layers.0.weight.0", "layers.1.weight.0", "layers.2.weight.1"})},
    ),
    "grouped: the same place in every group": (
        [nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 12, 1, groups=2, bias=False), nn.Conv2d(12, 2, 1)],
        {
            "layers.0.weight": (4, {"layers.0.weight.0", "layers.1.weight.1"}),
            "layers.1.weight": (6, {"layers.1.weight.0", "layers.2.weight.1"}),
        },
    ),
    "grouped: whole groups": (
        [nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 1, groups=4, bias=False), nn.Conv2d(8, 2, 1)],
        {"layers.0.weight": (4, {"layers.0.weight.0", "layers.1.weight.0", "layers.2.weight.1"})},
    ),
    "grouped and transposed": (
        [nn.Conv2d(3, 4, 1, bias=False), nn.ConvTranspose2d(4, 6, 1, groups=2), nn.Conv2d(6, 2, 1)],
        {
            "layers.0.weight": (
                2, {"layers.0.weight.0", "layers.1.weight.0", "layers.1.bias.0", "layers.2.weight.1"},
            )
        },
    ),
    "flattened": (
        [nn.Conv2d(3, 6, 3, bias=False), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 2)],
        {"layers.0.weight": (6, {"layers.0.weight.0", "layers.3.weight.1"})},
    ),
    "resized": (
        [nn.Conv2d(3, 6, 3, bias=False), nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1),
         nn.Upsample(scale_factor=2, mode="bilinear"), nn.AvgPool2d(2), nn.Conv2d(6, 2, 1)],
        {"layers.0.weight": (6, {"layers.0.weight.0", "layers.6.weight.1"})},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    modules, expected = CONVOLUTIONS[name]
    assert free(through, IMAGE, **layers(*modules)) == expected


def test_kernels_stay_and_are_not_worth_a_word() -> None:
    groups = secateur.analyze(nn.Conv2d(3, 4, 3), IMAGE)
    assert {(member.name, member.dim) for group in groups for member in group.members} == {
        ("weight", 0),
        ("weight", 1),
        ("bias", 0),
    }


def test_products_side_by_side_are_heads() -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        q, k, v = (F.linear(x, w).view(2, 5, 4, 3).transpose(1, 2) for w in (m.q, m.k, m.v))
        return (F.softmax(q @ k.mT, -1) @ v).transpose(1, 2).reshape(2, 5, 12) @ m.o

    w = torch.randn(12, 8)
    groups = secateur.analyze(Code(code, q=w, k=w + 0, v=w + 0, o=torch.randn(12, 2)), torch.randn(2, 5, 8))
    (group,) = groups.free
    assert group.heads
    assert group.units == 4
    assert [member.index[1].tolist() for member in group.members] == [[3, 4, 5]] * 4


def test_a_unit_may_have_more_indices_than_another() -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        h = x @ m.p
        return torch.cat([h[:, :2] + h[:, 2:4], h[:, 4:]], 1) @ m.o

    groups = secateur.analyze(Code(code, p=torch.randn(3, 6), o=torch.randn(4, 2)), torch.randn(5, 3))
    found = {
        (member.name, member.dim): [index.tolist() for index in member.index]
        for group in groups.free
        for member in group.members
    }
    assert found == {("p", 1): [[0, 2], [1, 3], [4], [5]], ("o", 0): [[0], [1], [2], [3]]}
    assert all(index.dtype == torch.int64 for group in groups for m in group.members for index in m.index)


class Spectral(nn.Module):
    """A Fourier layer with complex weights, and a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.hidden, self.head = nn.Conv1d(3, 8, 1), nn.Conv1d(6, 12, 1), nn.Conv1d(12, 2, 1)
        self.mix = nn.Parameter(torch.randn(8, 6, 5, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        modes = torch.einsum("bix,iox->box", torch.fft.rfft(self.read(x))[..., :5], self.mix)
        return self.head(self.hidden(torch.fft.irfft(modes, n=x.shape[-1])).relu())


def test_complex_weights_stay_and_the_rest_is_cut() -> None:
    torch.manual_seed(0)
    result = secateur.prune(
        Spectral(), torch.randn(2, 3, 10), granularity="channel", amount=0.5, scope="local"
    )
    assert result.skipped["mix"] == "it is of type complex64, which no criterion scores (mix)"
    assert result.model.read.weight.shape == (8, 3, 1)
    assert result.kept["hidden.weight"] == 6
    assert result.verification.error <= 1e-9


def test_a_tensor_that_is_not_registered_is_named() -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        return (x @ m.p * m.scales[0]) @ m.q

    scales = [torch.rand(8)]
    found = stuck(code, torch.randn(5, 3), p=torch.randn(3, 8), q=torch.randn(8, 2), scales=scales)
    reason = "it meets the tensor scales, which is no parameter and no buffer: register it"
    assert (found["p.1"], found["q.0"]) == (reason, reason)


def test_attention_without_a_scale_keeps_the_features_of_a_head() -> None:
    def code(m: Any, x: Tensor, **scale: float) -> Tensor:
        return F.scaled_dot_product_attention(x @ m.q, x @ m.k, x @ m.v, **scale) @ m.o

    w = torch.randn(4, 6)
    held = {"q": w, "k": w + 0, "v": w + 0, "o": torch.randn(6, 2)}
    assert free(code, torch.randn(2, 5, 4), **held) == {"v": (6, {"v.1", "o.0"})}
    assert free(partial(code, scale=0.5), torch.randn(2, 5, 4), **held) == {
        "q": (6, {"q.1", "k.1"}),
        "v": (6, {"v.1", "o.0"}),
    }


def test_attention_by_keywords_keeps_the_features_of_a_head() -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(value=x @ m.v, key=x @ m.k, query=x @ m.q) @ m.o

    w = torch.randn(4, 6)
    found = free(code, torch.randn(2, 5, 4), q=w, k=w + 0, v=w + 0, o=torch.randn(6, 2))
    assert found == {"v": (6, {"v.1", "o.0"})}


LOOKED_UP: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "isin": lambda h, t: torch.isin(h, t).float(),
    "bucketize": lambda h, t: torch.bucketize(h, t).float(),
}


@pytest.mark.parametrize("name", LOOKED_UP)
def test_numbers_that_entries_are_compared_with_stay(name: str) -> None:
    code = lambda m, x: LOOKED_UP[name](x @ m.a, m.t) @ m.c  # noqa: E731
    found = stuck(code, X, a=A, c=C, t=torch.rand(6).sort().values)
    assert found["t.0"] == "every entry is compared with all of its"
    assert "a.1" not in found


def test_a_grid_to_look_at_stays_and_the_channels_go() -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        grid = (x.flatten(1)[:, :4] @ m.p).view(2, 3, 3, 2)
        return m.layers[1](F.grid_sample(m.layers[0](x), grid, align_corners=False))

    held = {**layers(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)), "p": torch.randn(4, 18)}
    assert set(free(code, IMAGE, **held)) == {"layers.0.weight"}
    assert stuck(code, IMAGE, **held)["p.1"]


# Normalisations and reductions: a statistic over what may go is noted.


def crossing(code: Callable[..., Any], *inputs: Tensor, **held: Any) -> set[str]:
    """Return the operators whose statistic runs over a free dimension."""
    coupling = couple(trace(Code(code, **held), inputs))
    lock, _ = coupling.labels.locked()
    return {node.op for node, vector in coupling.crossed if (lock[coupling.labels.find(vector)] < 0).any()}


STATISTICS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "softmax": (lambda h: h.softmax(1), True),
    "log softmax": (lambda h: h.log_softmax(-1), True),
    "cumsum": (lambda h: h.cumsum(1), True),
    "layer norm": (lambda h: F.layer_norm(h, (6,)), True),
    "rms norm": (lambda h: F.rms_norm(h, (6,)), True),
    "one group": (lambda h: F.group_norm(h, 1), True),
    "mean": (lambda h: h - h.mean(1, keepdim=True), True),
    "mean of all": (lambda h: h - h.mean(), True),
    "variance": (lambda h: h / h.var(1, keepdim=True), True),
    "standard deviation": (lambda h: h / h.std(), True),
    "extremes": (lambda h: h - h.amax(1, keepdim=True), True),
    "log of a sum": (lambda h: h - h.logsumexp(1, keepdim=True), True),
    "product": (lambda h: h * h.prod(1, keepdim=True), True),
    "sum": (lambda h: h - h.sum(1, keepdim=True), True),
    "norm": (lambda h: h / h.norm(dim=1, keepdim=True), True),
    "normalised": (lambda h: F.normalize(h, dim=1), True),
    "over samples": (lambda h: h - h.mean(0) + h.amax(0) + h.softmax(0) + h.std(0), False),
    "batch": (lambda h: F.batch_norm(h, None, None, training=True), False),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_over_units_are_noted(name: str) -> None:
    statistic, crosses = STATISTICS[name]
    code = lambda m, x: statistic(x @ m.a) @ m.c  # noqa: E731
    assert free(code, X, a=A, c=C) == {"a": (6, {"a.1", "c.0"})}
    assert bool(crossing(code, X, a=A, c=C)) == crosses


RANKS: dict[str, Callable[[Tensor], Tensor]] = {
    "sort": lambda h: h.sort(1).values,
    "argsort": lambda h: h.argsort(1).float(),
    "argmax": lambda h: h.argmax(1, keepdim=True) * h,
    "order": lambda h: h + h.sort(1)[1],
    "top": lambda h: h.topk(3, 1)[0].repeat(1, 2),
    "where the top is": lambda h: h * h.topk(1, 1)[1],
    "kth and where": lambda h: h * torch.stack([*h.kthvalue(2, dim=1, keepdim=True)]).sum(0),
    "maximum and where": lambda h: h * torch.stack([*h.max(1, keepdim=True)]).sum(0),
    "minimum and where, looked at": lambda h: h * (1 + int(h.min(1)[1].sum())),
    "median and where": lambda h: h * torch.stack([*h.median(1, keepdim=True)]).sum(0),
    "mode and where": lambda h: h * torch.stack([*h.mode(1, keepdim=True)]).sum(0),
    "largest so far and where": lambda h: torch.stack([*h.cummax(1)]).sum(0),
    "by index": lambda h: h[:, torch.tensor([5, 4, 3, 2, 1, 0])],
    "gather": lambda h: h.gather(1, torch.zeros(2, 6, dtype=torch.int64)),
    "nonzero": lambda h: h * torch.nonzero(h).sum(),
    "roll": lambda h: h.roll(2, 1),
    "fourier": lambda h: torch.fft.fft(h).real,
    "no rule": lambda h: torch.special.entr(torch.linalg.qr(h.T @ h)[0])[:2],
}


@pytest.mark.parametrize("name", RANKS)
def test_what_looks_at_places_keeps_them(name: str) -> None:
    code = lambda m, x: RANKS[name](x @ m.a) @ m.c  # noqa: E731
    assert free(code, X, a=A, c=C) == {}
    assert stuck(code, X, a=A, c=C)["a.1"]


VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "maximum": lambda h: h.max(1, keepdim=True)[0] * h,
    "minimum": lambda h: h.min(dim=-1, keepdim=True).values * h,
    "maximum without keepdim": lambda h: torch.max(h, 1)[0][:, None] * h,
    "median": lambda h: h.median(1, keepdim=True)[0] * h,
    "median of numbers": lambda h: h.nanmedian(1, keepdim=True)[0] * h,
    "mode": lambda h: h.mode(1, keepdim=True)[0] * h,
    "kth": lambda h: h.kthvalue(2, dim=1, keepdim=True)[0] * h,
    "top": lambda h: h.topk(2, 1)[0].mean(1, keepdim=True) * h,
    "sorted": lambda h: h.sort(1)[0].exp().sum(1, keepdim=True) + h,
    "largest so far": lambda h: h.cummax(1)[0] + h,
    "both": lambda h: h / torch.aminmax(h, dim=1, keepdim=True).max,
    "where is not asked for": lambda h: h.max(1, keepdim=True)[0] * h + 0 * h.max(1)[1].shape[0],
}


@pytest.mark.parametrize("name", VALUES)
def test_a_place_that_nothing_looks_at_keeps_nothing(name: str) -> None:
    code = lambda m, x: VALUES[name](x @ m.a) @ m.c  # noqa: E731
    assert free(code, X, a=A, c=C) == {"a": (6, {"a.1", "c.0"})}
    result = secateur.prune(
        Code(code, a=torch.rand(A.shape), c=torch.rand(C.shape)),
        (torch.rand(X.shape),),
        granularity="channel",
        amount=0.5,
    )
    assert result.verification is not None
    assert result.verification.error < 1e-9


def test_an_operator_without_a_rule_is_counted_and_named() -> None:
    model = Code(lambda m, x: torch.linalg.qr(x @ m.a)[0].sum() + 0 * torch.linalg.qr(x)[1].sum(), a=A)
    groups = secateur.analyze(model, X)
    assert groups.unknown == {"linalg_qr": 2}
    assert "linalg_qr" not in OPERATORS
    lock = groups.groups[-1].lock
    assert lock is not None
    assert lock.reason == "secateur has no rule for the operator linalg_qr"
    assert lock.at.startswith("linalg_qr in the model (test_rules.py:")


def test_scales_shifts_and_running_statistics_go_along() -> None:
    groups = free(
        through, IMAGE, **layers(nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1))
    )
    norm = {f"layers.1.{name}.0" for name in ("weight", "bias", "running_mean", "running_var")}
    assert groups == {"layers.0.weight": (6, {"layers.0.weight.0", "layers.2.weight.1", *norm})}


@pytest.mark.parametrize(("groups", "units"), [(1, 6), (2, 2), (3, 3), (6, 6)])
def test_normalised_groups_go_whole(groups: int, units: int) -> None:
    held = layers(nn.Conv2d(3, 6, 1), nn.GroupNorm(groups, 6), nn.Conv2d(6, 2, 1))
    ((count, members),) = free(through, IMAGE, **held).values()
    assert count == units
    assert {"layers.1.weight.0", "layers.1.bias.0", "layers.2.weight.1"} <= members
    assert bool(crossing(through, IMAGE, **held)) == (groups == 1)


def test_instance_norm_and_prelu_go_along() -> None:
    held = layers(nn.Conv2d(3, 6, 1), nn.InstanceNorm2d(6, affine=True), nn.PReLU(6), nn.Conv2d(6, 2, 1))
    ((count, members),) = free(through, IMAGE, **held).values()
    assert count == 6
    assert {"layers.1.weight.0", "layers.1.bias.0", "layers.2.weight.0"} <= members


def test_a_normalised_weight_notes_what_it_divides() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))
    coupling = couple(trace(Code(through, **layers(layer, nn.Linear(6, 2))), X))
    names = {(coupling.program.values[value].name.rpartition(".")[2], dim) for value, dim in coupling.divided}
    assert names == {("original1", 0)}


# Selections by index: what is indexed stays, the rest passes.


def test_a_table_keeps_its_rows_and_may_lose_columns() -> None:
    code = lambda m, x: F.embedding(x, m.table) @ m.c  # noqa: E731
    table, ids = torch.randn(9, 6), torch.tensor([[1, 2]])
    assert free(code, ids, table=table, c=C) == {"table": (6, {"table.1", "c.0"})}
    assert stuck(code, ids, table=table, c=C) == {"table.0": "it is looked up by index"}


SELECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "index": lambda t: t[torch.tensor([2, 0, 1])],
    "two indices": lambda t: t[None][:, torch.tensor([2, 0]), :][0],
    "index select": lambda t: t.index_select(0, torch.tensor([1, 1])),
    "gather": lambda t: t.gather(0, torch.zeros(5, 6, dtype=torch.int64)),
    "index add": lambda t: t.index_add(0, torch.tensor([1]), torch.ones(1, 6)),
    "index copy": lambda t: t.index_copy(0, torch.tensor([1]), torch.zeros(1, 6)),
    "index fill": lambda t: t.index_fill(0, torch.tensor([1]), 0.0),
    "scatter": lambda t: t.scatter(0, torch.zeros(5, 6, dtype=torch.int64), torch.ones(5, 6)),
    "index put": lambda t: t.clone().index_put_((torch.tensor([0, 2]),), torch.ones(2, 6)),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_what_is_indexed_stays_and_the_rest_passes(name: str) -> None:
    code = lambda m, x: x[:, :1, None].mean() * SELECTIONS[name](m.t) @ m.c  # noqa: E731
    assert free(code, X, t=torch.randn(5, 6), c=C) == {"t": (6, {"t.1", "c.0"})}
    assert stuck(code, X, t=torch.randn(5, 6), c=C)["t.0"]


def test_a_gather_of_fewer_keeps_all() -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        return ((x @ m.a)[:, :, None].expand(-1, -1, 3).gather(2, torch.zeros(2, 4, 2).long()) * m.w).sum(
            (1, 2)
        )

    assert stuck(code, X, a=A, w=torch.randn(4, 2))["a.1"]


def test_columns_written_by_index() -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        out = torch.zeros(6, 9) * m.t
        out[:, torch.tensor([0, 2, 4])] = m.w
        return x.sum() * out.sum(1)

    assert {"t.1", "w.1"} <= set(stuck(code, X, t=torch.randn(6, 9), w=torch.randn(6, 3)))
