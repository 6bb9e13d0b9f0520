"""Batches: order, resumption, shards, augmentation and normalisation, against per-sample definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.errors import InputError
from secateur.data import AUGMENTATIONS, Batches, Dataset, Split


def images(
    count: int, shape: tuple[int, int, int] = (3, 8, 8), classes: int = 4, name: str = "toy"
) -> Dataset:
    """Random images whose labels are their row numbers modulo `classes`."""
    stream = torch.Generator().manual_seed(0)
    halves = [
        Split(
            torch.randint(1, 256, (size, *shape), dtype=torch.uint8, generator=stream),
            torch.arange(size) % classes,
        )
        for size in (count, 5)
    ]
    mean, std = (tuple(0.3 + 0.1 * channel for channel in range(shape[0])) for _ in range(2))
    return Dataset(name, *halves, tuple("abcdefgh"[:classes]), mean, std)


def texts(count: int) -> Dataset:
    stream = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 100, (count, 6), generator=stream)
    half = Split({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, torch.arange(count) % 2)
    return Dataset("words", half, half, ("no", "yes"), None, None)


def joined(batches: Batches, epoch: int = 0, start: int = 0) -> torch.Tensor:
    return torch.cat([batch.inputs for batch in batches.epoch(epoch, start)])


def augmented(name: str, image: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Pad, crop and mirror one image by slicing a canvas: the oracle."""
    entry = AUGMENTATIONS[name]
    channels, height, width = image.shape
    padding = entry.padding(height)  # type: ignore[attr-defined]
    canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    canvas[:, padding : padding + height, padding : padding + width] = image
    top, left, mirrored = draws.tolist()
    window = canvas[:, top : top + height, left : left + width]
    if mirrored and entry.flip:  # type: ignore[attr-defined]
        window = torch.stack([window[:, :, width - 1 - column] for column in range(width)], dim=2)
    return window


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 16),
    world=st.integers(1, 5),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
    augment=st.sampled_from(sorted(AUGMENTATIONS)),
)
@settings(max_examples=60, deadline=None)
def test_shards_of_all_ranks_are_the_single_process_batch(count, batch_size, world, epoch, shuffle, augment):
    data = images(count)

    def of(rank: int, world: int) -> Batches:
        return Batches(
            data, batch_size=batch_size, shuffle=shuffle, augment=augment, seed=7, rank=rank, world=world
        )

    shards = [list(of(rank, world).epoch(epoch)) for rank in range(world)]
    whole = list(of(0, 1).epoch(epoch))
    assert len(whole) == len(of(0, 1)) == -(-count // batch_size)
    assert sum(batch.size for batch in whole) == count
    for number, batch in enumerate(whole):
        parts = [shard[number] for shard in shards]
        assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
        assert {part.size for part in parts} == {len(batch.labels)}
        lengths = [len(part.labels) for part in parts]
        assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("augment", sorted(AUGMENTATIONS))
@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_resuming_in_mid_epoch_repeats_the_batches_to_the_bit(augment, start):
    def fresh() -> Batches:
        return Batches(images(50), batch_size=16, shuffle=True, augment=augment, seed=3)

    torch.manual_seed(1)
    through = list(fresh().epoch(2))
    torch.manual_seed(2)  # the global generator has no say
    resumed = list(fresh().epoch(2, start))
    assert len(resumed) == len(through) - start
    for one, other in zip(through[start:], resumed, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.labels, other.labels)


def test_every_epoch_visits_everything_once_in_another_order():
    data = images(50)
    batches = Batches(data, batch_size=16, shuffle=True, seed=0)
    plain = joined(Batches(data, batch_size=50))
    orders = [joined(batches, epoch) for epoch in range(3)]
    rows = [(order.flatten(1)[:, None] == plain.flatten(1)[None]).all(2).long().argmax(1) for order in orders]
    for row in rows:
        assert torch.equal(row.sort().values, torch.arange(50))
    assert not torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[1], rows[2])
    other = Batches(data, batch_size=16, shuffle=True, seed=1)
    assert not torch.equal(joined(other), orders[0])


def test_augmentation_differs_between_epochs_batches_and_samples():
    same = torch.randint(1, 256, (1, 1, 16, 16), dtype=torch.uint8).expand(32, -1, -1, -1).contiguous()
    split = Split(same, torch.zeros(32, dtype=torch.int64))
    batches = Batches(
        Dataset("same", split, split, ("x",), (0.0,), (1.0,)), batch_size=16, augment="crop-flip"
    )
    first, second = (batch.inputs for batch in batches.epoch(0))
    assert len(first.unique(dim=0)) > 4
    assert not torch.equal(first, second)
    assert not torch.equal(first, next(batches.epoch(1)).inputs)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 10, 17)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentation_equals_slicing_a_canvas(name, shape, dtype):
    entry, stream = AUGMENTATIONS[name], torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (12, *shape), generator=stream).to(dtype)
    draws = entry.draw(12, shape, stream)
    expected = torch.stack([augmented(name, pixel, draw) for pixel, draw in zip(pixels, draws, strict=True)])
    result = entry.apply(pixels, draws)
    assert result.dtype == dtype
    assert torch.equal(result, expected)


def test_crop_flip_of_cifar_pads_four_and_reaches_every_place():
    draws = AUGMENTATIONS["crop-flip"].draw(5000, (3, 32, 32), torch.Generator().manual_seed(0))
    for offsets in draws[:, :2].unbind(1):
        assert torch.equal(offsets.unique(), torch.arange(9))
    assert draws[:, 2].float().mean().item() == pytest.approx(0.5, abs=0.03)
    shifts = AUGMENTATIONS["shift"].draw(1000, (1, 28, 28), torch.Generator().manual_seed(0))
    assert shifts[:, 0].max() == 4


def test_padding_is_black_before_normalisation():
    split = Split(torch.full((64, 3, 32, 32), 200, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64))
    data = Dataset("grey", split, split, ("x",), (0.2, 0.4, 0.6), (0.1, 0.2, 0.3))
    inputs = next(iter(Batches(data, batch_size=64, augment="crop-flip"))).inputs
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        values = inputs[:, channel].unique().double()
        black, grey = -mean / std, (200 / 255 - mean) / std
        assert values.tolist() == pytest.approx([black, grey], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_normalisation_is_the_formula(dtype, channels_last):
    data = images(6)
    batch = next(iter(Batches(data, batch_size=6, dtype=dtype, channels_last=channels_last)))
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (data.mean, data.std))
    expected = (data.train.inputs.double() / 255 - mean) / std
    assert batch.inputs.dtype == dtype
    assert batch.inputs.is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    torch.testing.assert_close(batch.inputs.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_the_split_is_not_changed_by_its_batches():
    data = images(20)
    before = data.train.inputs.clone(), data.train.labels.clone()
    for batch in Batches(data, batch_size=8, augment="crop-flip"):
        batch.inputs.zero_()
    assert torch.equal(data.train.inputs, before[0])
    assert torch.equal(data.train.labels, before[1])


@pytest.mark.parametrize("shuffle", [False, True])
def test_text_batches_keep_tokens_and_labels_together(shuffle):
    data = texts(10)
    answer = {
        tuple(row): label
        for row, label in zip(
            data.train.inputs["input_ids"].tolist(), data.train.labels.tolist(), strict=True
        )
    }
    batches = list(Batches(data, batch_size=4, shuffle=shuffle))
    assert [batch.size for batch in batches] == [4, 4, 2]
    for batch in batches:
        assert set(batch.inputs) == {"input_ids", "attention_mask"}
        assert [answer[tuple(row)] for row in batch.inputs["input_ids"].tolist()] == batch.labels.tolist()


def test_the_test_split_and_plain_iteration():
    data = images(20)
    batches = Batches(data, "test", 3)
    assert [len(batch.labels) for batch in batches] == [3, 2]
    assert torch.equal(joined(batches), data.normalised(data.test.inputs))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"split": "dev"}, "dev"),
        ({"batch_size": 0}, "batch size"),
        ({"batch_size": 2.5}, "batch size"),
        ({"augment": "crop-flop"}, "crop-flip"),
        ({"rank": 2, "world": 2}, "Rank 2"),
        ({"rank": -1}, "Rank -1"),
        ({"world": 0}, "processes"),
        ({"dtype": torch.int64}, "int64"),
        ({"device": "warp"}, "warp"),
    ],
)
def test_senseless_arguments_are_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        Batches(images(4), **arguments)


@pytest.mark.parametrize("start", [-1, 3])
def test_a_start_outside_the_epoch_is_refused_at_once(start):
    with pytest.raises(InputError, match=str(start)):
        Batches(images(4), batch_size=2).epoch(0, start)


def test_text_has_no_augmentation():
    with pytest.raises(InputError, match="flip"):
        Batches(texts(4), augment="flip")
    assert len(Batches(texts(4), augment="none")) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fits", [True, False])
def test_a_gpu_gets_the_same_batches(fits, monkeypatch):
    if not fits:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    data = images(50)
    arguments = {"batch_size": 16, "shuffle": True, "augment": "crop-flip", "seed": 5}
    here, there = Batches(data, **arguments), Batches(data, device="cuda", **arguments)
    for one, other in zip(here.epoch(1), there.epoch(1), strict=True):
        assert other.inputs.is_cuda
        assert other.labels.is_cuda
        torch.testing.assert_close(other.inputs.cpu(), one.inputs, rtol=1e-6, atol=1e-6)
        assert torch.equal(other.labels.cpu(), one.labels)
