"""A pattern after a cut of channels: the layers it does not fit are told, and `round_to` makes them fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur
from secateur.core.errors import InputError

IMAGE = torch.ones(1, 3, 4, 4)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.ReLU(),
        nn.Conv2d(64, 10, 1),
    )  # fmt: skip


def test_widths_that_do_not_fit_are_told_with_what_was_reached() -> None:
    small = secateur.prune(net(), IMAGE, granularity="channel", amount={"0": 0.1, "2": 0.5, "4": 0.1}).model
    assert [each.out_channels for each in small[::2]] == [14, 16, 58, 10]
    sparse = secateur.prune(small, granularity="2:4")
    assert list(sparse.masks) == ["4.weight"]
    cut = 16 * 58 // 2
    whole = sum(each.weight.numel() for each in small[::2])
    (note,) = sparse.notes
    assert (
        f"2:4 does not fit 2 of 4 layers (2.weight, 6.weight), so {cut / whole:.2%} of their weights are cut"
        in note
    )
    assert "not 50%" in note
    assert "round_to=4" in note
    assert note in sparse.summary()


def test_round_to_makes_the_pattern_fit() -> None:
    small = secateur.prune(net(), IMAGE, granularity="channel", amount=0.3, round_to=4).model
    sparse = secateur.prune(small, granularity="2:4")
    assert set(sparse.masks) == {"2.weight", "4.weight", "6.weight"}
    assert sparse.notes == ()  # the first layer reads the image's three channels


def test_a_model_that_fits_nowhere_names_the_way_out() -> None:
    with pytest.raises(InputError, match=r"No layer fits the pattern 2:4: .* 6 .*round_to=4 before\.$"):
        secateur.prune(nn.Linear(6, 4), granularity="2:4")
