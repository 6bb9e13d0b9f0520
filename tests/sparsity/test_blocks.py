"""Blocks of the weight matrix [out, in · kernel] that are zeroed together, against explicit loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError
from secateur.criteria import CRITERIA
from secateur.sparsity.blocks import Blocks
from secateur.sparsity.granularity import GRANULARITIES, parse

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(1, 3))
SIZES = st.integers(1, 8) | st.just(0)


def by_loops(shape: tuple[int, ...], rows: int, columns: int) -> list[list[tuple[int, int]]]:
    """Return the places (row, column) of every block of the weight matrix, block by block, row by row."""
    height, width = shape[0], math.prod(shape[1:])
    rows, columns = rows or height, columns or width
    return [
        [(i, j) for i in range(top, min(top + rows, height)) for j in range(left, min(left + columns, width))]
        for top in range(0, height, rows)
        for left in range(0, width, columns)
    ]


@given(shape=SHAPES, rows=SIZES, columns=SIZES, seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_scores_and_masks_against_explicit_loops(
    shape: tuple[int, ...], rows: int, columns: int, seed: int
) -> None:
    granularity = parse(f"block:{rows or 'all'}x{columns or 'all'}")
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    blocks = by_loops(shape, rows, columns)
    flat = scores.flatten(1)
    means = [sum(float(flat[place]) for place in block) / len(block) for block in blocks]
    assert granularity.pooled(scores).flatten().tolist() == pytest.approx(means)
    assert granularity.entries(shape) == len(blocks)
    kept = torch.rand(granularity.pooled(scores).shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask = granularity.spread(kept, shape)
    assert mask.shape == shape
    for block, stays in zip(blocks, kept.flatten().tolist(), strict=True):
        assert {bool(mask.flatten(1)[place]) for place in block} == {stays}
    assert torch.equal(granularity.alive(mask), kept)


@pytest.mark.parametrize("text", ["block:16x16", "block:1xall", "block:allx4", "block:4x1"])
def test_a_block_is_written_as_it_is_read(text: str) -> None:
    granularity = parse(text)
    assert (str(granularity), granularity.kind, granularity.amount) == (text, "block", None)
    assert (granularity.zeroes, granularity.removes, granularity.single) == (True, False, False)
    assert granularity.block == (Blocks.parse(text[6:]).rows, Blocks.parse(text[6:]).columns)


@pytest.mark.parametrize("text", ["block:", "block:16", "block:0x4", "block:4x", "block:-1x4", "block:4x4x4"])
def test_blocks_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"There is no block '.*': write rows x columns"):
        parse(text)


def test_only_blocks_have_a_block() -> None:
    assert [parse(text).block for text in ("weight", "2:4", "channel", "head", "layer")] == [None] * 5
    assert parse("block:2x3").block == (2, 3)


def model() -> nn.Sequential:
    """A convolution, a depthwise one and two linear layers, none of whose sizes is a multiple of 4."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 10),
        nn.ReLU(),
        nn.Linear(10, 5),
    )


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 6, 6, generator=generator), torch.arange(8) % 5)]


def gone(mask: Tensor, rows: int, columns: int) -> int:
    """Count the blocks that are zero; fails where a block is neither kept nor zeroed as a whole."""
    count = 0
    for block in by_loops(tuple(mask.shape), rows, columns):
        (stays,) = {bool(mask.flatten(1)[place]) for place in block}
        count += not stays
    return count


@pytest.mark.parametrize("scope", ["global", "local", "erk"])
@pytest.mark.parametrize(
    "criterion", ["magnitude", "random", "taylor", "wanda", "obs", "lamp", "snip", "synflow"]
)
def test_exactly_as_many_blocks_go_as_asked_for(criterion: str, scope: str) -> None:
    before = model()
    whole = {name: len(by_loops(tuple(p.shape), 4, 4)) for name, p in before.named_parameters() if p.ndim > 1}
    made = secateur.prune(
        before,
        batches()[0][0],
        granularity="block:4x4",
        criterion=criterion,
        scope=scope,
        amount=0.4,
        data=batches() if CRITERIA[criterion].needs_data else None,
    )
    counts = {name: gone(mask, 4, 4) for name, mask in made.masks.items()}
    assert counts.keys() == whole.keys()
    if scope == "local":
        assert counts == {name: round(0.4 * number) for name, number in whole.items()}
    else:
        assert sum(counts.values()) == round(0.4 * sum(whole.values()))
    for name, parameter in made.model.named_parameters():
        if name in made.masks:
            assert not parameter[~made.masks[name]].any()
            assert torch.equal(parameter[made.masks[name]], before.get_parameter(name)[made.masks[name]])


def test_the_blocks_with_the_smallest_mean_magnitude_go() -> None:
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[9.0, 0, 1, 1], [0, 0, 1, 1], [3, 3, 2, 2], [3, 3, 2, 2]]))
    made = secateur.prune(layer, granularity="block:2x2", amount=0.5)  # means 2.25, 1, 3, 2
    assert made.masks["weight"].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_earlier_cuts_stay_and_rounds_end_with_the_same_number() -> None:
    first = secateur.prune(model(), granularity="block:2x4", amount=0.3)
    again = secateur.prune(first.model, granularity="block:2x4", amount=0.6, masks=first.masks, rounds=3)
    total = sum(len(by_loops(tuple(mask.shape), 2, 4)) for mask in again.masks.values())
    assert sum(gone(mask, 2, 4) for mask in again.masks.values()) == round(0.6 * total)
    assert not any((again.masks[name] & ~first.masks[name]).any() for name in first.masks)


def test_what_is_left_is_fitted_under_the_mask() -> None:
    dense, data = model(), batches()
    how = {"granularity": "block:2x2", "criterion": "wanda", "amount": 0.5, "data": data, "scope": "local"}
    dropped = secateur.prune(dense, data[0][0], **how)
    fitted = secateur.prune(dense, data[0][0], compensation="reconstruct", damping=0.1, **how)
    assert all(torch.equal(fitted.masks[name], dropped.masks[name]) for name in dropped.masks)
    x = data[0][0]
    wanted = dense(x)
    assert (fitted.model(x) - wanted).norm() < 0.7 * (dropped.model(x) - wanted).norm()
    for name, mask in fitted.masks.items():
        assert not fitted.model.get_parameter(name)[~mask].any()
    with pytest.raises(InputError, match=r"not block:2x2: leave select out"):
        secateur.prune(dense, x, compensation="reconstruct", select="obs", **how)


def test_a_vector_has_no_blocks() -> None:
    made = secateur.prune(nn.Linear(8, 8), granularity="block:2x2", amount=0.5, include="all")
    assert made.skipped == {"bias": "it is no matrix"}
    with pytest.raises(
        InputError, match="No layer fits the granularity block:2x2: bias does not, it is no matrix"
    ):
        secateur.prune(nn.Linear(8, 8), granularity="block:2x2", amount=0.5, include="biases")


def test_movement_scores_blocks_of_the_same_form() -> None:
    net = nn.Linear(6, 5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    method = secateur.METHODS  # the registry is filled when the package is imported
    assert "movement" in method
    run = secateur.methods.start("movement", net, optimizer, steps=6, amount=0.5, block="2x3")
    for step in range(6):
        optimizer.zero_grad()
        net(torch.randn(4, 6, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        optimizer.step()
    masks = run.finish()
    assert gone(masks["weight"], 2, 3) == 3  # of 6 blocks, those at the edge included


def test_every_kind_of_granularity_is_in_the_registry() -> None:
    assert set(GRANULARITIES) == {"weight", "n:m", "block", "channel", "head", "layer"}


@pytest.mark.parametrize("name", [name for name in CRITERIA if "weights" in CRITERIA[name].elements])
def test_criteria_of_weights_are_criteria_of_blocks(name: str) -> None:
    assert {"weight", "n:m", "block"} <= CRITERIA[name].granularities
