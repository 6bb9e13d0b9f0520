"""Criteria of feature maps against their definitions, computed map by map with hooks on the modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from structural_zoo import CASES
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur import Calibration
from secateur.core.errors import InputError
from secateur.criteria import CRITERIA
from secateur.importance import unit_scores
from secateur.linalg import spectra
from secateur.linalg.spectra import nuclear_losses
from secateur.linalg.spectra import ranks as ranks_of
from secateur.runs.run import Run
from secateur.steps.prune import samples

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


def independence(maps: Tensor) -> list[float]:
    """What the nuclear norm of an image's channels loses without each: plain singular values, row by row."""

    def nuclear(matrix: Tensor) -> float:
        return float(np.linalg.svd(matrix.numpy(), compute_uv=False).sum())

    images = [image.flatten(1) for image in maps]
    found = []
    for channel in range(maps.shape[1]):
        without = [image.clone() for image in images]
        for image in without:
            image[channel] = 0
        found.append(np.mean([nuclear(a) - nuclear(b) for a, b in zip(images, without, strict=True)]).item())
    return found


def by_channel(size: Callable[[list[float]], float]) -> Callable[[Tensor], list[float]]:
    """Mean over images of a number made of each map's entries."""
    return lambda maps: [
        sum(size(image[channel].flatten().tolist()) for image in maps) / len(maps)
        for channel in range(maps.shape[1])
    ]


BY_HAND: dict[tuple[str, str | None], Callable[[Tensor], list[float]]] = {
    ("hrank", None): ranks,
    ("chip", None): independence,
    ("activation", None): by_channel(lambda a: sum(map(abs, a)) / len(a)),
    ("activation", "l2"): by_channel(lambda a: (sum(x * x for x in a) / len(a)) ** 0.5),
    ("apoz", None): by_channel(lambda a: 1 - a.count(0.0) / len(a)),
}


def test_every_criterion_of_maps_is_tried() -> None:
    assert {name for name, _ in BY_HAND} == set(EVERY)


@pytest.mark.parametrize(("criterion", "norm"), BY_HAND)
def test_maps_are_taken_behind_the_activation(criterion: str, norm: str | None) -> None:
    model, x = small()
    with hooked([model[2], model[5], model[8]]) as maps, torch.no_grad():  # type: ignore[index]
        model(x)
    maps[2] = maps[2][:, :, None, None]
    found = scores(model, x, criterion, **({"norm": norm} if norm else {}))
    for name, of in zip(("0.weight", "4.weight", "7.weight"), maps, strict=True):
        assert found[name].tolist() == pytest.approx(BY_HAND[criterion, norm](of), rel=3e-6, abs=1e-12)


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


def test_a_vgg_is_seen_behind_its_rectifiers() -> None:
    torch.manual_seed(0)
    model = secateur.build("vgg11_bn", num_classes=10, input_shape=(3, 32, 32)).double().eval()
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    rectifiers = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    with hooked(rectifiers) as maps, torch.no_grad():
        model(x)
    for criterion in ("apoz", "activation"):
        found = scores(model, x, criterion, batches(x, 2, 1))
        assert len(found) == len(maps)
        for each, of in zip(found.values(), maps, strict=True):
            assert each.tolist() == pytest.approx(BY_HAND[criterion, None](of), rel=1e-9)


def test_an_unknown_norm_is_refused() -> None:
    model, x = small()
    with pytest.raises(InputError, match=r"There is no norm 'l3' for activation: choose l1 or l2\."):
        scores(model, x, "activation", norm="l3")


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


@pytest.mark.parametrize("name", CASES)
def test_no_architecture_is_too_odd(name: str) -> None:
    case = CASES[name]()
    groups = secateur.analyze(case.model, case.inputs)
    found = unit_scores(
        case.model, groups.free, "activation", coupling=groups.coupling, data=[(case.inputs, None)]
    )
    units = {group.name: group.units for group in groups.free}
    assert found
    assert all(len(scores) == units[group] and bool((scores >= 0).all()) for group, scores in found.items())


def test_weights_made_in_the_forward_are_followed() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    x = torch.randn(3, 3, 5, 5, dtype=torch.float64)
    expected = scores(plain, x, "activation", [(x, None)])["0.weight"]
    nn.utils.parametrizations.weight_norm(plain[0])
    (found,) = scores(plain, x, "activation", [(x, None)]).values()
    torch.testing.assert_close(found, expected)


def test_a_layer_no_data_reaches_is_named() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x))) if len(x) > 1 else x[:, :2]

    model, x = Chosen(), torch.randn(4, 3)
    with pytest.raises(InputError, match=r"No calibration data reaches .*, whose activations count"):
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
    empty: list[Any] = []
    for nothing in (empty, iter(empty)):
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


# --- many spectra at once -----------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    rank=st.integers(0, 9),
    rectified=st.booleans(),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e12]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=80, deadline=None)
def test_losses_of_the_nuclear_norm_against_plain_singular_values(
    rows: int, columns: int, rank: int, rectified: bool, scale: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    shapes = (3, rows, rank), (3, rank, columns)
    left, right = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    matrices = left @ right * scale
    matrices = matrices.relu() if rectified else matrices
    found = nuclear_losses(matrices)
    expected = torch.tensor([independence(each[None, :, :, None]) for each in matrices])
    whole = torch.linalg.svdvals(matrices).sum(1, keepdim=True)
    # the difference of two sums has their error
    assert bool(((found - expected).abs() <= 1e-5 * expected.abs() + 1e-9 * whole).all())


def test_losses_do_not_depend_on_how_many_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = torch.randn(7, 5, 12, generator=torch.Generator().manual_seed(0))
    together, counted = nuclear_losses(matrices), ranks_of(matrices)
    monkeypatch.setattr(spectra, "SPECTRUM_CHUNK", 1)
    assert torch.allclose(nuclear_losses(matrices), together, rtol=1e-12, atol=0)
    assert torch.equal(ranks_of(matrices), counted)


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    smallest=st.floats(-12, 0),
    zeros=st.integers(0, 3),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_ranks_in_float32_are_those_of_exact_singular_values(
    rows: int, columns: int, smallest: float, zeros: int, scale: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    size = min(rows, columns)
    u, v = (
        torch.linalg.qr(torch.randn(4, n, size, generator=draw, dtype=torch.float64))[0]
        for n in (rows, columns)
    )
    spectrum = torch.logspace(0, smallest, size, dtype=torch.float64)
    spectrum[max(1, size - zeros) :] = 0
    matrices = (u * spectrum @ v.mT * scale).float()
    values = torch.linalg.svdvals(matrices.double())
    bound = max(rows, columns) * 2**-23 * values[:, :1]
    near = ((values / bound - 1).abs() < 1e-3).any(1)
    counted = (values > bound).sum(1).double()
    assert torch.equal(ranks_of(matrices)[~near], counted[~near])


def test_ranks_of_maps_that_are_not_finite_are_not_numbers() -> None:
    for dtype in (torch.float32, torch.float64):
        matrices = torch.eye(3, dtype=dtype).repeat(3, 1, 1)
        matrices[0, 0, 0], matrices[1, 2, 1] = torch.nan, torch.inf
        assert ranks_of(matrices).tolist() == pytest.approx([math.nan, math.nan, 3], nan_ok=True)


# --- from the command line ----------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", EVERY)
def test_maps_of_training_samples_from_the_command_line(secateur_command: Any, criterion: str) -> None:
    run = secateur_command
    arguments = "--model", "convnet", "--data", "digits", "--no-evaluate", "--out", "dense"
    assert run("import", *arguments).code == 0
    words = "--granularity", "channel", "--criterion", criterion, "--calibration", "640", "--scope", "local"
    cut = run("prune", "dense", *words, "--amount", "0.5", "--out", "half")
    assert (cut.code, cut.err) == (0, "")
    model, _ = Run.open("half").load_model()
    data = secateur.load_data("digits")
    dense, _ = Run.open("dense").load_model()
    expected = secateur.prune(
        dense,
        data.example(2),
        granularity="channel",
        criterion=criterion,
        scope="local",
        amount=0.5,
        data=samples(data, 640, 0),
    ).model
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.state_dict().values(), expected.state_dict().values(), strict=True)
    )
