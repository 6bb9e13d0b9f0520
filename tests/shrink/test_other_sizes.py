"""Cuts that hold for other sizes of the inputs, several example inputs, and methods as entries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuts import zero_what_went
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, ModelError
from secateur.graph.other_sizes import second_sizes
from secateur.measure.examples import Examples


class Position(nn.Module):
    """Attention over positions whose product is reshaped to an image without being transposed back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 32, 1), nn.Conv2d(32, 32, 1)
        self.out = nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.stem(x).relu())
        n, c, h, w = x.shape
        out: Tensor = self.out(x + self.b(x).flatten(2).transpose(1, 2).reshape(n, c, h, w))
        return out


def cut(model: nn.Module, inputs: Any, **settings: Any) -> secateur.Pruned:
    return secateur.prune(
        model.double().eval(), inputs, granularity="channel", amount=0.5, scope="local", **settings
    )


def images(*size: int) -> Tensor:
    return torch.rand(*size, dtype=torch.float64)


def test_what_belongs_together_at_one_size_alone_is_not_cut() -> None:
    torch.manual_seed(0)
    model, x = Position(), images(1, 3, 2, 2)
    result = cut(model, x)
    assert result.units == (12, 6)
    assert (
        "all of its indices belong together on inputs [1, 3, 2, 2] and [2, 3, 4, 6]"
        in result.skipped["a.weight"]
    )
    zero_what_went(model, result)
    for size in ((1, 2, 2), (3, 1, 4), (2, 4, 4), (1, 8, 8), (1, 3, 5)):
        x = images(size[0], 3, *size[1:])
        torch.testing.assert_close(result.model(x), model(x))


def test_the_size_of_the_example_alone_can_be_asked_for() -> None:
    result = cut(Position(), images(1, 3, 2, 2), other_sizes=False)
    assert result.units == (20, 10)
    groups = [
        secateur.analyze(Position(), images(1, 3, 2, 2).float(), other_sizes=each) for each in (True, False)
    ]
    assert [len(each.free) for each in groups] == [1, 2]


def test_where_all_sizes_agree_the_example_alone_is_proved() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    result = cut(net, images(1, 3, 9, 9))
    assert result.groups is not None
    assert len(result.groups.coupling.program.passes) == 1


class Flat(nn.Module):
    """Takes images of one size, or mistakes a larger one for more samples."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 1), nn.Linear(8 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.conv(x).view(-1, 8 * 16))
        return out


def test_code_that_mistakes_size_for_samples_is_judged_at_its_own_size() -> None:
    result = cut(Flat(), images(2, 3, 4, 4))
    assert result.units == (8, 4)


class Table(nn.Module):
    """Positions from a table, as many as it has."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(11, 16), nn.Embedding(length, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.places(torch.arange(x.shape[1]))
        out: Tensor = h + self.down(self.up(h).relu())
        return out


def test_a_sequence_as_long_as_the_table_of_positions_is_cut() -> None:
    result = cut(Table(8), torch.randint(11, (1, 8)))
    assert result.units is not None
    assert result.units[0] == 32


class Stages(nn.Module):
    """Takes one more layer for each step of its input, and another branch for wide ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 12)
        self.steps = nn.ModuleDict({str(at): nn.Linear(12, 12) for at in range(3)})
        self.wide = nn.Linear(24, 12)
        self.out = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        if x.shape[1] > 2:
            h = self.wide(torch.cat([h[:, :1], h[:, 1:2]], -1)) + h
        for at in range(x.shape[1]):
            h = h + self.steps[str(at)](h)
        out: Tensor = self.out(h)
        return out


def test_loops_and_branches_of_several_examples_are_cut_and_proved() -> None:
    torch.manual_seed(0)
    model, short, long = Stages(), torch.rand(2, 1, 4).double(), torch.rand(2, 3, 4).double()
    result = cut(model, [short, long])
    assert result.parameters is not None
    assert result.parameters[1] < result.parameters[0]
    zero_what_went(model, result)
    for x in (short, long):
        torch.testing.assert_close(result.model(x), model(x))


class TwoWays(nn.Module):
    """A model whose forward is not its only entry, nor run at all."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mean, self.b, self.c = (
            nn.Linear(6, 16),
            nn.Linear(16, 3),
            nn.Linear(3, 16),
            nn.Linear(16, 6),
        )

    def encode(self, x: Tensor) -> Tensor:
        mean: Tensor = self.mean(self.a(x).relu().view(-1, 16))
        return mean

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.c(self.b(z).relu().view(-1, 4, 4).flatten(1))
        return out


def test_methods_are_entries() -> None:
    torch.manual_seed(0)
    model, x, z = TwoWays(), torch.rand(5, 6).double(), torch.rand(4, 3).double()
    result = cut(model, {"encode": x, "decode": z})
    assert result.units is not None
    assert result.units[0] == 16 + 4  # a `view` into 4 × 4 leaves rows of 4 as units
    zero_what_went(model, result)
    small = result.model
    assert isinstance(small, TwoWays)
    torch.testing.assert_close(small.encode(x), model.encode(x))
    torch.testing.assert_close(small.decode(z), model.decode(z))
    names = [
        group.name for group in secateur.analyze(TwoWays(), {"encode": x.float(), "decode": z.float()}).free
    ]
    assert names == ["a.weight", "b.weight"]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        out: Tensor = self.out(self.a(x) * scale + self.b(y))
        return out


def test_what_a_list_and_a_dict_mean() -> None:
    x, y = torch.rand(1, 4), torch.rand(1, 4)
    alone, linear = Pair(), nn.Linear(4, 2)

    def calls(model: nn.Module, inputs: Any) -> list[tuple[str, Any]]:
        return [(each.method, each.inputs) for each in Examples.of(model, inputs).calls]

    assert calls(alone, [x, y]) == [("forward", [x, y])]
    assert calls(alone, [(x, y), (y, x)]) == [("forward", (x, y)), ("forward", (y, x))]
    assert calls(alone, {"x": x, "y": y}) == [("forward", {"x": x, "y": y})]
    assert calls(linear, [x, y]) == [("forward", x), ("forward", y)]
    assert calls(linear, [x]) == [("forward", [x])]
    assert calls(TwoWays(), {"decode": [x, y], "encode": x}) == [("decode", x), ("decode", y), ("encode", x)]
    assert [method for method, _ in calls(AlsoForward(), {"encode": x, "forward": y})] == [
        "forward",
        "encode",
    ]
    nothing: tuple[Any, ...] = ([], {})
    for empty in nothing:
        with pytest.raises(InputError, match="example inputs are empty"):
            calls(linear, empty)


class AlsoForward(TwoWays):
    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def test_what_a_method_cannot_take_is_told() -> None:
    with pytest.raises(ModelError, match=r"does not run on example inputs of shape encode\(\[2, 5\]\)"):
        secateur.analyze(TwoWays(), {"encode": torch.rand(2, 5)})


def test_second_sizes_change_all_tensors_alike() -> None:
    def sizes(inputs: Any) -> list[Any]:
        found = list(second_sizes(inputs))
        shapes = [
            [[list(each.shape) for each in size] for size in (every.shapes, every.inputs)] for every in found
        ]
        assert all(without == with_numbers for without, with_numbers in shapes)
        assert all(each.is_meta for size in found for each in size.shapes)
        return [shape for shape, _ in shapes]

    assert sizes(torch.rand(2, 3, 4, 4)) == [[[3, 3, 8, 12]], [[3, 3, 4, 4]]]
    tokens = torch.randint(9, (1, 6)), torch.ones(1, 6), torch.ones(1, 1, 6, 6)
    assert sizes(tokens) == [
        [[2, 12], [2, 12], [2, 1, 12, 12]],
        [[2, 3], [2, 3], [2, 1, 3, 3]],
        [[2, 6], [2, 6], [2, 1, 6, 6]],
    ]
    assert sizes(torch.rand(2, 5)) == [[[3, 5]]]
    assert sizes(torch.rand(512, 5)) == [[[2, 5]]]
    assert list(second_sizes({"flag": True})) == []


class Steps(nn.Module):
    """Splits its heads by a literal, once for each time step, and once more for long inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 24), nn.Linear(24, 24), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 24, dtype=x.dtype)
        for at in range(x.shape[1]):
            h = (self.a(x[:, at]) + h).view(-1, 4, 6).relu().flatten(1)
        if x.shape[1] > 4:
            h = self.b(h).view(-1, 24).relu()
        out: Tensor = self.c(h)
        return out


@pytest.mark.parametrize("several", [True, False], ids=["two lengths", "one length"])
def test_sizes_in_loops_and_branches_follow_at_any_length(several: bool) -> None:
    torch.manual_seed(0)
    model = Steps()
    short, long = (torch.rand(2, length, 4).double() for length in (2, 6))
    result = cut(model, [short, long] if several else short)
    assert result.parameters is not None
    assert result.parameters[1] < (0.4 if several else 0.9) * result.parameters[0]
    zero_what_went(model, result)
    for length in (1, 2, 3, *((5, 6, 9) if several else ())):
        x = torch.rand(3, length, 4).double()
        torch.testing.assert_close(result.model(x), model(x), msg=f"at length {length}")
    again = cut(result.model, [short, long] if several else short)
    assert again.model(short).shape == (2, 2)
