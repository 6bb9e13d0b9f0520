"""The criteria of the folded model against their published definitions, on a network folded by torch, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

import secateur
from secateur.core.errors import InputError, ModelError
from secateur.importance import unit_scores


class Residual(nn.Module):
    """A stem and a block on one residual stream, then a layer that is flattened before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.up, self.up_norm = nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16, eps=0.1)
        self.down, self.down_norm = nn.Conv2d(16, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.last, self.last_norm = nn.Conv2d(12, 10, 3, stride=2), nn.BatchNorm2d(10)
        self.head = nn.Linear(10 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        x = (x + self.down_norm(self.down(self.up_norm(self.up(x)).relu()))).relu()
        return self.head(self.last_norm(self.last(x)).relu().flatten(1))


LAYERS = {
    "stem.weight": (("stem", "down"), ("up", "last")),
    "up.weight": (("up",), ("down",)),
    "last.weight": (("last",), ()),  # the head reads nine features of each channel
}
"""Group → the layers that make its channels and those that read them, each with one index for a channel."""


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    model = Residual().double().eval()
    for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.05, 3)
    return model


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(3, 4, 3, 8, 8, generator=generator, dtype=torch.float64)
    return [(x, torch.randint(4, (4,), generator=generator)) for x in inputs]


def folded(model: nn.Module) -> nn.Module:
    small = copy.deepcopy(model)
    for name in ("stem", "up", "down", "last"):
        setattr(small, name, fuse_conv_bn_eval(getattr(model, name), getattr(model, f"{name}_norm")))
        setattr(small, f"{name}_norm", nn.Identity())
    x, _ = batches()[0]
    torch.testing.assert_close(small(x), model(x), rtol=1e-10, atol=1e-10)
    return small


def per_layer(model: nn.Module, group: str, worth: Callable[[Tensor, Tensor | None], Tensor]) -> list[Tensor]:
    """Return the sum of each channel's worth in each layer; `worth` is a function of weights and gradients."""
    makes, reads = LAYERS[group]
    found = []
    for dims, names in (((1, 2, 3), makes), ((0, 2, 3), reads)):
        for name in names:
            weight = getattr(model, name).weight
            found.append(worth(weight, weight.grad).detach().sum(dims))
    return found


def l1(model: nn.Module, group: str) -> Tensor:
    return torch.stack(per_layer(model, group, lambda w, g: w.abs())).mean(0)


def l2(model: nn.Module, group: str) -> Tensor:
    return torch.stack(per_layer(model, group, lambda w, g: w**2)).mean(0)


def lamp(model: nn.Module, group: str) -> Tensor:
    sizes = torch.stack([each.sqrt() for each in per_layer(model, group, lambda w, g: w**2)]).mean(0).tolist()
    return torch.tensor([s / sum(other for other in sizes if other >= s) for s in sizes], dtype=torch.float64)


def taylor(model: nn.Module, group: str) -> Tensor:
    model.zero_grad()
    for x, labels in batches():
        F.cross_entropy(model(x), labels).backward()
    return torch.stack(per_layer(model, group, lambda w, g: (w * g).abs())).mean(0) / len(batches())


def chip(model: nn.Module, group: str) -> Tensor:
    outputs: dict[str, list[Tensor]] = {name: [] for name in LAYERS[group][0]}
    for name, seen in outputs.items():
        getattr(model, name).register_forward_hook(lambda m, i, output, seen=seen: seen.append(output))
    with torch.no_grad():
        for x, _ in batches():
            model(x)
    layers = []
    for seen in outputs.values():
        images = torch.cat(seen).flatten(2)
        losses = torch.zeros(images.shape[:2], dtype=torch.float64)
        for i, image in enumerate(images):
            for j in range(len(image)):
                without = image.clone()
                without[j] = 0
                losses[i, j] = torch.linalg.matrix_norm(image, "nuc") - torch.linalg.matrix_norm(
                    without, "nuc"
                )
        layers.append(losses.mean(0))
    return torch.stack(layers).mean(0)


PUBLISHED: dict[str, tuple[Callable[[nn.Module, str], Tensor], str, dict[str, Any], float]] = {
    "l1": (l1, "folded_norm", {}, 1e-12),
    "l2": (l2, "folded_norm", {"norm": "l2"}, 1e-12),
    "lamp": (lamp, "folded_lamp", {}, 1e-12),
    "taylor": (taylor, "folded_taylor", {}, 1e-10),
    "chip": (chip, "folded_chip", {}, 1e-5),
}


def ours(model: nn.Module, criterion: str, **options: Any) -> dict[str, Tensor]:
    groups = secateur.analyze(model, torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    return unit_scores(model, groups.free, criterion, coupling=groups.coupling, data=batches(), **options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_scores_are_those_published(name: str, network: nn.Module) -> None:
    by_hand, criterion, options, tolerance = PUBLISHED[name]
    found, small = ours(network, criterion, **options), folded(network)
    assert found.keys() == LAYERS.keys()
    for group, scores in found.items():
        expected = by_hand(small, group)
        torch.testing.assert_close(scores, expected, rtol=tolerance, atol=0)
        assert spearmanr(scores, expected).statistic > 0.999


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_folded_before_has_the_same_scores(name: str, network: nn.Module) -> None:
    _, criterion, options, _ = PUBLISHED[name]
    found, small = ours(network, criterion, **options), ours(folded(network), criterion, **options)
    for group, scores in found.items():
        torch.testing.assert_close(small[group], scores, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("folded_one", "own"), [("folded_norm", "magnitude"), ("folded_chip", "chip")])
def test_the_library_s_own_criteria_rank_otherwise(folded_one: str, own: str, network: nn.Module) -> None:
    published, unfolded = ours(network, folded_one), ours(network, own)
    assert min(spearmanr(published[group], unfolded[group]).statistic for group in LAYERS) < 0.95


def test_equal_channels_share_their_rank_in_lamp() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([3.0, 1, 2, 5])[:, None].expand(4, 3))
        model[2].weight.zero_()
    groups = secateur.analyze(model, torch.ones(1, 3, dtype=torch.float64))
    found = unit_scores(model, groups.free, "folded_lamp", coupling=groups.coupling)
    assert found["0.weight"].tolist() == pytest.approx([3 / 8, 1 / 11, 2 / 10, 1])


def test_depthwise_kernels_and_embeddings_do_not_count() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 2, 1)
    ).double()
    x = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    groups = secateur.analyze(model, x)
    found = unit_scores(model, groups.free, "folded_norm", coupling=groups.coupling)
    first, last = model[0].weight.abs().sum((1, 2, 3)), model[3].weight.abs().sum((0, 2, 3))
    torch.testing.assert_close(found["0.weight"], (first + last).detach() / 2)


def test_a_cut_by_each_is_proved(network: nn.Module) -> None:
    x, _ = batches()[0]
    for _, criterion, options, _ in PUBLISHED.values():
        cut = secateur.prune(
            network,
            x,
            granularity="channel",
            amount=0.5,
            scope="local",
            criterion=criterion,
            correct=False,
            data=batches(),
            **options,
        )
        assert cut.verification is not None
        assert cut.verification.error < 1e-9
        kept = ours(network, criterion, **options)["up.weight"].topk(8).indices.sort().values
        torch.testing.assert_close(cut.model.up.bias, network.up.bias[kept])


def test_mistakes_are_named(network: nn.Module) -> None:
    with pytest.raises(InputError, match="no norm 'l3' for folded_norm: choose l1 or l2"):
        ours(network, "folded_norm", norm="l3")
    x, _ = batches()[0]
    for criterion in ("folded_taylor", "folded_chip"):
        with pytest.raises(InputError, match=f"criterion {criterion} needs .* on some data"):
            secateur.prune(network, x, granularity="channel", amount=0.5, criterion=criterion)
    heads = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises((InputError, ModelError), match="folded_lamp"):
        secateur.prune(heads, torch.ones(1, 3, 8), granularity="head", amount=0.5, criterion="folded_lamp")
