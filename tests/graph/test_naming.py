"""A group's name is that group alone; a layer's name means the groups whose units the layer makes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, ModelError
from secateur.graph.groups import Groups
from secateur.graph.naming import named, touched

IMAGE = torch.ones(1, 3, 6, 6)


def chain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 1),
        nn.ReLU(), nn.Conv2d(64, 10, 1),
    )  # fmt: skip


class Block(nn.Module):
    """A pre-norm block of one gated MLP and one linear layer, both of which add to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)
        self.mlp = nn.ModuleDict({"gate": nn.Linear(8, 12), "up": nn.Linear(8, 12), "down": nn.Linear(12, 8)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(x)
        y = self.norm(x)
        return x + self.mlp["down"](self.mlp["gate"](y).sigmoid() * self.mlp["up"](y))


class Stream(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.blocks = nn.Embedding(20, 8), nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.table(ids))))


IDS = torch.ones(1, 4, dtype=torch.long)
STREAM = "table.weight#2"
INNER = ["blocks.0.mlp.gate.weight", "blocks.1.mlp.gate.weight"]


def streamed() -> Groups:
    return secateur.analyze(Stream(), IDS)


def names(groups: Groups, *patterns: str) -> list[str]:
    return [each.name for each in named(groups, patterns)]


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("0.weight", ["0.weight"]),
        ("2.weight", ["2.weight"]),
        ("2", ["2.weight"]),
        ("5", ["5.weight"]),
        ("3", ["2.weight"]),  # a normalisation makes nothing: the channels it scales
        ("3.weight", ["2.weight"]),
        ("2.bias", ["2.weight"]),
        ("7", []),  # the last layer makes outputs, which stay
        ("[02]", ["0.weight", "2.weight"]),
        ("*.weight", ["0.weight", "2.weight", "5.weight"]),
        ("*", ["0.weight", "2.weight", "5.weight"]),
    ],
)
def test_a_layer_means_the_units_it_makes(pattern: str, meant: list[str]) -> None:
    assert names(secateur.analyze(chain(), IMAGE), pattern) == meant


@pytest.mark.parametrize(
    ("patterns", "meant"),
    [
        (["*mlp*"], INNER),
        (["mlp"], INNER),
        (["blocks"], INNER),
        (["blocks.0"], INNER[:1]),
        (["blocks.1.mlp"], INNER[1:]),
        (["up"], []),  # the gate makes these units as well
        (["up", "gate"], INNER),
        (["head"], []),
        (["norm"], [STREAM]),
        ([STREAM], [STREAM]),
        ([STREAM, "blocks.0"], [STREAM, INNER[0]]),
        (["table", "blocks"], [STREAM, *INNER]),
        (["*"], [STREAM, *INNER]),
    ],
)
def test_a_stream_is_meant_where_all_that_makes_it_is(patterns: list[str], meant: list[str]) -> None:
    assert names(streamed(), *patterns) == meant


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("0", ["2.weight", "5.weight"]),
        ("2", ["5.weight"]),  # a layer left alone neither loses outputs nor inputs
        ("2.weight", ["0.weight", "5.weight"]),
        ("3", ["0.weight", "5.weight"]),
        ("7", ["0.weight", "2.weight"]),
    ],
)
def test_what_is_kept(pattern: str, left: list[str]) -> None:
    groups = secateur.analyze(chain(), IMAGE)
    kept = [each.name for each in touched(groups, [pattern])]
    assert [each.name for each in groups.free if each.name not in kept] == left
    result = secateur.prune(
        chain(), IMAGE, granularity="channel", amount=0.5, scope="local", keep=[pattern], verify=False
    )
    assert [each.name for each in groups.free if result.kept[each.name] < each.units] == left


def test_one_group_is_cut_alone() -> None:
    for name in ("2.weight", "2"):
        small = secateur.prune(
            chain(), IMAGE, granularity="channel", amount=0.5, scope="local", layers=name
        ).model
        assert [each.out_channels for each in small if isinstance(each, nn.Conv2d)] == [16, 16, 64, 10]


def test_the_width_of_the_mlps_is_one_word() -> None:
    small = secateur.prune(
        Stream(), IDS, granularity="channel", amount=0.5, scope="local", layers="mlp"
    ).model
    assert [each.mlp["down"].weight.shape for each in small.blocks] == [(8, 6), (8, 6)]
    assert small.table.weight.shape == (20, 8)


def test_depthwise_filters_make_no_channels() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    )
    groups = secateur.analyze(model, IMAGE)
    assert names(groups, "0") == names(groups, "2") == ["0.weight"]
    grey = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 4, 1))  # one channel in, but no depthwise filter
    assert names(secateur.analyze(grey, IMAGE[:, :1]), "0") == ["0.weight"]


def test_a_layer_that_shares_its_units_names_the_group() -> None:
    with pytest.raises(
        ModelError, match=r"other layers make the units of up as well.*layers=blocks\.0\.mlp\.gate"
    ):
        secateur.prune(Stream(), IDS, granularity="channel", amount=0.5, layers="up")


@pytest.mark.parametrize("argument", ["keep", "layers"])
def test_an_unknown_name_gives_the_nearest(argument: str) -> None:
    with pytest.raises(
        InputError, match=r"No layer with parameters matches 'block\.0': did you mean .*blocks\.0"
    ):
        secateur.prune(Stream(), IDS, granularity="channel", amount=0.5, **{argument: "block.0"})
    with pytest.raises(InputError, match="No layer with parameters matches 'blocs': did you mean blocks"):
        secateur.prune(Stream(), amount=0.5, **{argument: "blocs"})
