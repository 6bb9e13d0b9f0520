"""Criteria of feature maps against their definitions, computed map by map with hooks on the modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur import Calibration
from secateur.criteria import CRITERIA
from secateur.errors import InputError
from secateur.importance import unit_scores

EVERY = [name for name in CRITERIA if CRITERIA[name].per == "map"]


def small() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 4 * 2, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)  # type: ignore[arg-type]
    return model.double().eval(), torch.randn(7, 3, 12, 8, dtype=torch.float64)


def batches(x: Tensor, *sizes: int) -> list[tuple[Tensor, None]]:
    return [(part, None) for part in x.split(list(sizes))]


def scores(
    model: nn.Module, x: Tensor, criterion: str, data: Any = None, **options: Any
) -> dict[str, Tensor]:
    groups = secateur.analyze(model, x[:2])
    return unit_scores(
        model, groups.free, criterion, coupling=groups.coupling, data=data or batches(x, 4, 3), **options
    )


@contextmanager
def hooked(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Copies of what modules return, in the order they run."""
    found: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda *args: found.append(args[-1].detach().clone()))
        for module in modules
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def ranks(maps: Tensor) -> list[float]:
    """Mean rank of each channel's maps, [N, C, H, W], one singular value decomposition at a time."""
    found = [
        [np.linalg.matrix_rank(image[channel].numpy()) for image in maps] for channel in range(maps.shape[1])
    ]
    return [float(np.mean(channel)) for channel in found]


BY_HAND: dict[str, Callable[[Tensor], list[float]]] = {"hrank": ranks}


@pytest.mark.parametrize("criterion", EVERY)
def test_maps_are_taken_behind_the_activation(criterion: str) -> None:
    model, x = small()
    with hooked([model[2], model[5], model[8]]) as maps, torch.no_grad():  # type: ignore[index]
        model(x)
    maps[2] = maps[2][:, :, None, None]
    found = scores(model, x, criterion)
    for name, of in zip(("0.weight", "4.weight", "7.weight"), maps, strict=True):
        assert found[name].tolist() == pytest.approx(BY_HAND[criterion](of), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("criterion", EVERY)
def test_how_the_samples_are_batched_does_not_matter(criterion: str) -> None:
    model, x = small()
    expected = scores(model, x, criterion)
    for sizes in ((7,), (1,) * 7, (1, 6)):
        found = scores(model, x, criterion, batches(x, *sizes))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("criterion", EVERY)
def test_the_same_data_give_the_same_scores_and_the_model_is_left_alone(criterion: str) -> None:
    model, x = small()
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    one, other = scores(model, x, criterion), scores(model, x, criterion)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


class Counting(nn.Module):
    """Counts the samples it sees, those of its copies included."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta:
            Counting.seen += len(x)
        return x


def test_another_amount_costs_no_second_pass_until_the_weights_change() -> None:
    model, x = small()
    model = nn.Sequential(Counting(), *model)  # type: ignore[misc]
    data = Calibration(batches(x, 4, 3))

    def cut(amount: float) -> int:
        Counting.seen = 0
        secateur.prune(
            model, x[:2], granularity="channel", criterion="hrank", amount=amount, data=data, verify=False
        )
        return Counting.seen

    first = cut(0.3)
    assert first >= len(x)
    assert cut(0.6) <= first - len(x)
    with torch.no_grad():
        model[1].weight.mul_(2)  # type: ignore[index, operator]
    assert cut(0.3) == first


def test_residual_blocks_are_seen_behind_their_sum() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=5).double().eval()
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    found = scores(model, x, "hrank", batches(x, 3), reduction="mean")
    inner, blocks = model.layer1[1].relu, [model.relu, *model.layer1]  # type: ignore[list-item]
    with hooked([inner]) as maps, torch.no_grad():
        model(x)
    assert found["layer1.1.conv1.weight"].tolist() == pytest.approx(ranks(maps[0]))
    with hooked(blocks) as maps, torch.no_grad():  # type: ignore[arg-type]
        model(x)
    stream = np.mean([ranks(each) for each in maps], axis=0)
    assert found["conv1.weight"].tolist() == pytest.approx(stream.tolist())


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((2, 3), 1.0), ((2, 3, 5), 1.0), ((2, 3, 1, 1), 1.0), ((2, 3, 4, 7), 4.0), ((2, 3, 2, 6, 5), 5.0)],
)
def test_ranks_of_maps_of_any_shape(shape: tuple[int, ...], expected: float) -> None:
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    maps[:, 1] = 0
    assert CRITERIA["hrank"].unit(maps).tolist() == [[expected, 0, expected]] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ranks_of_products_are_their_inner_size(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    for rank in (0, 1, 5, 16):
        # whole numbers, so that the products are exact in every dtype
        left = torch.randint(-2, 3, (4, 8, 16, rank), generator=draw).double()
        right = torch.randint(-2, 3, (4, 8, rank, 12), generator=draw).double()
        maps = (left @ right).to(dtype)
        expected = torch.linalg.matrix_rank(maps.double()).double()
        assert torch.equal(CRITERIA["hrank"].unit(maps), expected)


class Tokens(nn.Module):
    """Channels last: a small transformer's feed-forward half."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(F.gelu(self.wide(x)))


def test_channels_are_found_wherever_they_are() -> None:
    torch.manual_seed(0)
    model = Tokens().double()
    x = torch.randn(4, 5, 6, dtype=torch.float64)
    found = scores(model, x, "hrank", [(x, None)])
    assert found["wide.weight"].tolist() == [1.0] * 8


def test_a_layer_no_data_reaches_is_named() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x))) if len(x) > 1 else x[:, :2]

    model, x = Chosen(), torch.randn(4, 3)
    with pytest.raises(InputError, match=r"No calibration data reaches .*, whose feature maps count"):
        scores(model, x, "hrank", [(x[:1], None)])


@pytest.mark.parametrize("criterion", EVERY)
def test_without_data_it_says_so(criterion: str) -> None:
    model, x = small()
    with pytest.raises(
        InputError, match=f"The criterion {criterion} needs the feature maps on some data: pass"
    ):
        secateur.prune(model, x, granularity="channel", criterion=criterion, amount=0.5)
    assert CRITERIA[criterion].needs_data


def test_without_a_coupling_it_says_so() -> None:
    model, x = small()
    groups = secateur.analyze(model, x)
    with pytest.raises(InputError, match=r"looks at the model at work: pass groups\.coupling as coupling="):
        unit_scores(model, groups.free, "hrank", data=batches(x, 7))


@pytest.mark.parametrize("data", [[torch.ones(2, 3)], [(1, 2, 3)]])
def test_batches_that_are_no_pairs_are_refused(data: Any) -> None:
    with pytest.raises(InputError, match="A batch of calibration data is a pair of inputs and labels"):
        list(Calibration(data))


def test_no_batches_are_refused() -> None:
    model, x = small()
    for nothing in ([], iter([])):
        with pytest.raises(InputError, match="The data holds no batch"):
            secateur.prune(model, x, granularity="channel", criterion="hrank", amount=0.5, data=nothing)
    with pytest.raises(InputError, match="The data is a int: pass batches"):
        Calibration(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("criterion", EVERY)
def test_a_cut_is_proved(criterion: str) -> None:
    model, x = small()
    result = secateur.prune(
        model, x, granularity="channel", criterion=criterion, amount=0.4, data=batches(x, 4, 3)
    )
    assert result.verification is not None
    assert result.achieved == pytest.approx(0.4, abs=0.05)
