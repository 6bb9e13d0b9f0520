"""Widths: every group ends at a multiple of `round_to`, or stays as it was where it has too few units."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.core.errors import InputError

WIDTHS = (16, 24, 32, 100)
GOALS: dict[str, dict[str, Any]] = {
    "little": {"amount": 0.05},
    "some": {"amount": 0.4},
    "much": {"amount": 0.9},
    "all that may go": {"amount": 1.0},
    "half of it at most": {"amount": 0.9, "max_amount": 0.5},
    "macs": {"budget": {"macs": 0.5}},
    "params": {"budget": {"params": 0.6}},
    "rounds": {"amount": 0.6, "rounds": 3},
    "macs in rounds": {"budget": {"macs": 0.5}, "rounds": 2},
}


def net() -> nn.Module:
    torch.manual_seed(0)
    sizes = [3, *WIDTHS]
    layers = [nn.Sequential(nn.Conv2d(a, b, 1), nn.ReLU()) for a, b in pairwise(sizes)]
    return nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], 5, 1))


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("round_to", [5, 16, 32])
@pytest.mark.parametrize("goal", GOALS)
def test_every_group_ends_at_a_multiple_or_stays_whole(goal: str, round_to: int, scope: str) -> None:
    given = GOALS[goal]
    result = secateur.prune(
        net(), torch.ones(1, 3, 2, 2), granularity="channel", scope=scope, round_to=round_to, verify=False,
        **given,
    )  # fmt: skip
    widths = [each.out_channels for each in result.model.modules() if isinstance(each, nn.Conv2d)][:-1]
    share = given.get("max_amount", 1.0)
    for before, after in zip(WIDTHS, widths, strict=True):
        can = any(width >= (1 - share) * before for width in range(round_to, before + 1, round_to))
        assert after % round_to == 0 if can else after == before
    assert any(after < before for before, after in zip(WIDTHS, widths, strict=True))


def test_a_budget_that_no_multiples_meet_is_refused() -> None:
    with pytest.raises(InputError, match=r"can't be met: .* or lower round_to"):
        secateur.prune(
            net(), torch.ones(1, 3, 2, 2), granularity="channel", round_to=64, budget={"macs": 0.1}
        )


def test_heads_end_at_a_multiple() -> None:
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(24, heads, 8, batch_first=True) for heads in (12, 6, 3)]
    result = secateur.prune(
        nn.Sequential(*layers), torch.ones(1, 4, 24), granularity="head", amount=0.3, scope="local",
        round_to=4,
    )  # fmt: skip
    assert [each.self_attn.num_heads for each in result.model] == [8, 4, 3]
