"""Top-1, top-5 and cross-entropy against a plain computation in float64 over single samples."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, ModelError
from secateur.data import Dataset, Split
from secateur.training.evaluation import Tally


def toy(train: int = 40, test: int = 23, classes: int = 7) -> Dataset:
    stream = torch.Generator().manual_seed(1)
    halves = [
        Split(
            torch.randint(0, 256, (size, 2, 5, 5), dtype=torch.uint8, generator=stream),
            torch.randint(0, classes, (size,), generator=stream),
        )
        for size in (train, test)
    ]
    return Dataset("toy", *halves, tuple("abcdefghij"[:classes]), (0.4, 0.5), (0.2, 0.3))


def classifier(classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, classes)
    )


def plain(model: nn.Module, data: Dataset, split: Split) -> tuple[float, float, float]:
    """Loss, top-1 and top-5, one sample at a time, in Python floats."""
    model = model.double().eval()
    loss = hits = near = 0.0
    for image, label in zip(split.inputs, split.labels.tolist(), strict=True):
        channels = [
            (channel.double() / 255 - mean) / std
            for channel, mean, std in zip(image, data.mean or (), data.std or (), strict=True)
        ]
        logits = model(torch.stack(channels)[None])[0].tolist()
        loss += math.log(sum(math.exp(value) for value in logits)) - logits[label]
        rank = sum(value > logits[label] for value in logits)
        hits += rank == 0
        near += rank < 5
    model.float()
    return loss / len(split), hits / len(split), near / len(split)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("batch_size", [1, 7, 23, 500])
def test_the_numbers_are_those_of_all_samples_whatever_the_batches(split: str, batch_size: int) -> None:
    data, model = toy(), classifier()
    found = secateur.evaluate(model, data, split=split, batch_size=batch_size)
    loss, top1, top5 = plain(model, data, getattr(data, split))
    assert found["top1"] == top1
    assert found["top5"] == top5
    assert found["loss"] == pytest.approx(loss, rel=1e-6)


def test_with_fewer_than_five_classes_top5_is_certain() -> None:
    found = secateur.evaluate(classifier(3), toy(classes=3))
    assert found["top5"] == 1.0
    assert found["top1"] < 1.0


def test_the_model_comes_back_in_its_modes_and_statistics() -> None:
    model = classifier()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    secateur.evaluate(model, toy())
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_output_with_logits_in_it_is_understood() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier()

        def forward(self, images: Tensor) -> Any:
            return SimpleNamespace(logits=self.inner(images))

    assert secateur.evaluate(Wrapped(), toy()) == secateur.evaluate(classifier(), toy())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (classifier(4), r"output is \[23, 4\], but toy has 7 classes: build the model with num_classes=7"),
        (nn.Conv2d(2, 7, 3), r"output is \[23, 7, 3, 3\]"),
        (nn.Conv2d(3, 7, 3), r"Conv2d cannot take the 2×5×5 inputs of toy"),
        (nn.Linear(9, 7), r"Linear cannot take the 2×5×5 inputs of toy"),
        (nn.MultiheadAttention(4, 2), r"MultiheadAttention cannot take"),
    ],
    ids=["classes", "map", "channels", "size", "signature"],
)
def test_a_model_that_does_not_fit_the_data_is_refused_in_one_sentence(model: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        secateur.evaluate(model, toy())
    assert "\n" not in str(caught.value)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(InputError, match="train or test"):
        secateur.evaluate(classifier(), toy(), split="validation")


def test_sums_do_not_depend_on_when_they_are_looked_at() -> None:
    """A checkpoint in mid-epoch looks at the sums; the epoch's numbers must be the same bits without it."""
    stream = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(9, 7, generator=stream), torch.randint(0, 7, (9,), generator=stream)) for _ in range(50)
    ]
    quiet, watched = Tally(), Tally()
    for number, (logits, labels) in enumerate(batches):
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        quiet.add(logits, labels, loss)
        watched.add(logits, labels, loss)
        if number % 7 == 3:
            watched = Tally(**watched.sums())
    assert quiet.sums() == watched.sums()
    assert quiet.sums()["seen"] == 450


def test_a_tally_of_nothing_is_zero() -> None:
    assert Tally().means() == {"loss": 0.0, "top1": 0.0, "top5": 0.0}
