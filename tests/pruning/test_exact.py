"""Cuts said exactly: amounts of single layers and groups, and the very units that go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.core.errors import InputError

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.ReLU(),
        nn.Conv2d(64, 10, 1),
    )  # fmt: skip


def widths(model: nn.Module) -> list[int]:
    return [each.out_channels for each in model.modules() if isinstance(each, nn.Conv2d)][:-1]


def cut(**how: Any) -> secateur.Pruned:
    return secateur.prune(net(), IMAGE, granularity="channel", **how)


@pytest.mark.parametrize("more", [{}, {"rounds": 3}, {"scope": "local"}, {"criterion": "random"}])
@pytest.mark.parametrize(
    ("amount", "kept"),
    [
        ({"0": 0.25, "2": 0.5, "4": 0.75}, [12, 16, 16]),
        ({"2": 0.5}, [16, 16, 64]),
        ({"0.weight": 0.25, "*": 0.5}, [12, 16, 32]),
        ({"[02]": 0.25, "2": 0.5}, [12, 16, 64]),  # a name before a glob
        ({"2.weight": 0.25, "2": 0.5, "4": 0.0}, [16, 24, 64]),  # the group's own name before a layer's
        ({"*": 0.5, "2": 0}, [8, 32, 32]),
        ({"[2]": 0.25, "2*": 0.25}, [16, 24, 64]),  # two globs that agree
    ],
)
def test_each_group_loses_its_own_amount(amount: Any, kept: list[int], more: dict[str, Any]) -> None:
    result = cut(amount=amount, **more)
    assert widths(result.model) == kept
    assert result.requested == result.achieved
    assert result.choices["amount"] == amount


def test_an_amount_takes_what_the_scope_local_takes() -> None:
    alike = cut(amount={"*": 0.5}), cut(amount=0.5, scope="local")
    assert all(torch.equal(a, b) for a, b in zip(*(each.model.parameters() for each in alike), strict=True))


def test_amounts_of_modules_themselves() -> None:
    model = net()
    result = secateur.prune(
        model, IMAGE, granularity="channel", amount={model[2]: 0.5, model[4].weight: 0.25}
    )
    assert widths(result.model) == [16, 16, 48]


def test_amounts_and_multiples() -> None:
    assert widths(cut(amount={"0": 0.25, "2": 0.7, "4": 0.0}, round_to=10).model) == [10, 10, 64]


@pytest.mark.parametrize("granularity", ["weight", "block:1x4"])
def test_each_weight_loses_its_own_amount(granularity: str) -> None:
    result = secateur.prune(
        net(), amount={"0": 0.25, "4.weight": 0.5, "*": 0.75, "6": 0}, granularity=granularity, rounds=2
    )
    shares = {name: 1 - float(mask.float().mean()) for name, mask in result.masks.items()}
    wanted = {"0.weight": 0.25, "2.weight": 0.75, "4.weight": 0.5, "6.weight": 0.0}
    assert shares == pytest.approx(wanted, abs=0.01)
    assert result.choices["scope"] == "local"


def test_tied_weights_have_the_amount_of_any_name() -> None:
    model = nn.ModuleDict({"table": nn.Linear(4, 8, bias=False), "head": nn.Linear(4, 8, bias=False)})
    model["head"].weight = model["table"].weight
    assert secateur.prune(model, amount={"head": 0.5}).masks.pruned == 16
    assert secateur.prune(model, amount={"head.weight": 0.5, "table": 0.25}).masks.pruned == 16
    with pytest.raises(InputError, match="two entries"):
        secateur.prune(model, amount={"head": 0.5, "table": 0.25})


def test_earlier_cuts_count_towards_each_amount() -> None:
    first = secateur.prune(net(), amount={"0": 0.25, "2": 0.5})
    second = secateur.prune(first.model, amount={"0": 0.5, "2": 0.75}, masks=first.masks, rounds=2)
    assert second.masks["0.weight"].float().mean() == 0.5
    assert not (second.masks["2.weight"] & ~first.masks["2.weight"]).any()
    with pytest.raises(InputError, match=r"2\.weight has lost 0\.5000 already, more than its amount 0\.25"):
        secateur.prune(first.model, amount={"0": 0.5, "2": 0.25}, masks=first.masks)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"amount": {"8": 0.5}}, "No layer with parameters matches '8'"),
        ({"amount": {"6": 0.5}}, "'6' names no units that may go: it is an output of the model"),
        ({"amount": {"2": 0.5}, "keep": ["2.weight"]}, "'2' names no units that may go"),
        ({"amount": {"[2]": 0.5, "2*": 0.25}}, r"2\.weight has two entries, '\[2\]': 0.5 and '2\*': 0.25"),
        ({"amount": {"2": 1.5}}, "The amount 1.5 of '2' is not a number between 0 and 1"),
        ({"amount": {"2": True}}, "The amount True of '2' is not"),
        ({"amount": {2: 0.5}}, "2 is no name of a layer"),
        ({"amount": {}}, "Amounts by layer name at least one"),
        ({"amount": {"2": 0.5}, "scope": "isomorphic"}, "leave the scope isomorphic out"),
        ({"amount": {"2": 0.5}, "budget": {"macs": 0.5}}, "not both"),
        ({"amount": {"2": 0.5}, "granularity": "head"}, "no attention heads"),
        ({"amount": {"2": 0.5}, "granularity": "layer"}, "name those that may go in layers"),
        ({"amount": {"2": 0.5}, "granularity": "2:4"}, "removes 50% by itself"),
        (
            {"amount": {"2": 0.5}, "granularity": "weight", "layers": "0"},
            "'2' is for no tensor that may be cut",
        ),
        ({"units": {"8": [0]}}, "No layer with parameters matches '8'"),
        ({"units": {"6": [0]}}, "'6' names no units that may go: it is an output of the model"),
        ({"units": {"*": [0]}}, r"'\*' names several groups, 0.weight, 2.weight, 4.weight"),
        ({"units": {"2": [32]}}, r"2\.weight has no unit 32: its units are 0 to 31"),
        ({"units": {"2": [-1]}}, "whole numbers from 0"),
        ({"units": {"2": [1.0]}}, "whole numbers from 0"),
        ({"units": {"2": [True]}}, "whole numbers from 0"),
        ({"units": {"2": "12"}}, "whole numbers from 0"),
        ({"units": {"2": []}}, "whole numbers from 0"),
        ({"units": {"2": [3, 5, 3]}}, "have 3 twice"),
        ({"units": {"2": range(32)}}, r"all 32 units of 2\.weight: one has to stay"),
        ({"units": {}}, "names units by group"),
        ({"units": [3, 5]}, "names units by group"),
        ({"units": {"2": [3]}, "amount": 0.5}, "leave amount out"),
        ({"units": {"2": [3]}, "budget": {"macs": 0.5}}, "leave budget out"),
        ({"units": {"2": [3]}, "criterion": "lamp"}, "leave criterion out"),
        ({"units": {"2": [3]}, "round_to": 8}, "leave round_to out"),
        ({"units": {"2": [3]}, "granularity": "weight"}, "units has no meaning for the granularity weight"),
    ],
)
def test_nonsense_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(secateur.SecateurError, match=said):
        secateur.prune(net(), IMAGE, **{"granularity": "channel", **how})


def test_exactly_the_named_units_go() -> None:
    model = net()
    result = secateur.prune(
        model, IMAGE, granularity="channel", units={"0": [15, 2], "4.weight": torch.tensor([0])}
    )
    assert widths(result.model) == [14, 32, 63]
    stays = [unit for unit in range(16) if unit not in (2, 15)]
    assert torch.equal(result.model[0].weight, model[0].weight[stays])
    assert torch.equal(result.model[2].weight, model[2].weight[:, stays])
    assert torch.equal(result.model[4].weight, model[4].weight[1:])
    assert result.achieved == 3 / 80  # of the units of the two groups


def test_exactly_the_named_heads_go() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 4, 8, batch_first=True)
    x = torch.randn(2, 5, 16)
    small = secateur.prune(model, x, granularity="head", units={"self_attn": [0, 3]}).model
    assert torch.equal(small.self_attn.out_proj.weight, model.self_attn.out_proj.weight[:, 4:12])


@pytest.mark.parametrize("compensation", ["drop", "fuse"])
def test_named_units_are_compensated_like_others(compensation: str) -> None:
    result = cut(units={"2": list(range(16))}, compensation=compensation)
    assert widths(result.model) == [16, 16, 64]
