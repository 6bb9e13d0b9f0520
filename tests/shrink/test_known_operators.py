"""What a row says of an operator beyond its labels holds in a cut: draws, statistics, numbers, sizes by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.compensation.codable import Codable
from secateur.graph.couple import couple
from secateur.graph.groups import group
from secateur.graph.trace import trace
from secateur.pruning.blocks import blocks_of

HALF: dict[str, Any] = {"granularity": "channel", "amount": 0.5, "scope": "local"}
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Code(nn.Module):
    """A model that runs a function of two layers' weights and one that reads them."""

    def __init__(self, code: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(1)
        self.code = code
        self.a = nn.Parameter(torch.randn(4, 8, generator=random))
        self.b = nn.Parameter(torch.randn(4, 6, generator=random))
        self.c = nn.Parameter(torch.randn(8, 2, generator=random))
        self.d = nn.Parameter(torch.randn(6, 2, generator=random))
        self.w = nn.Parameter(torch.rand(8, generator=random) + 0.5)
        self.register_buffer("mean", torch.randn(8, generator=random))
        self.register_buffer("variance", torch.rand(8, generator=random) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, x)


def halved(code: Callable[[Any, Tensor], Tensor]) -> Any:
    result = secateur.prune(Code(code), X, **HALF)
    assert result.verification is not None
    assert result.verification.error <= 1e-9
    return result


def reasons(result_of: Callable[[Any, Tensor], Tensor]) -> str:
    """Prune a model of which nothing can go, and return why."""
    with pytest.raises(secateur.ModelError, match="nothing to prune") as caught:
        secateur.prune(Code(result_of), X, **HALF)
    return str(caught.value)


DRAWS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "integers after noise": lambda m, h: h + torch.randn_like(h) + torch.randint(0, 9, (3, 1)),
    "an order after noise": lambda m, h: h + torch.rand_like(h) + torch.randperm(3)[:, None],
    "integers like it": lambda m, h: h * torch.randint_like(h, 9),
    "a coin each": lambda m, h: h * torch.empty_like(h).bernoulli_(0.5),
    "a coin of its own each, in place": lambda m, h: (
        h * torch.empty_like(h).bernoulli_(torch.full_like(h, 0.4))
    ),
    "a coin of its own each": lambda m, h: h * torch.bernoulli(torch.full_like(h, 0.5)),
    "normal": lambda m, h: h + torch.empty_like(h).normal_(),
    "normal around it": lambda m, h: torch.normal(h, 0.5),
    "cauchy": lambda m, h: h * torch.empty_like(h).cauchy_(),
    "log normal": lambda m, h: h * torch.empty_like(h).log_normal_(),
    "geometric": lambda m, h: h * torch.empty_like(h).geometric_(0.5),
    "random bits": lambda m, h: h * torch.empty_like(h).random_(4),
}


@pytest.mark.parametrize("name", DRAWS)
def test_both_models_draw_the_same_numbers(name: str) -> None:
    result = halved(lambda m, x: DRAWS[name](m, x @ m.a) @ m.c)
    assert result.model.a.shape == (4, 4)


NORMS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "layer": lambda m, h: F.layer_norm(h, (8, 6), m.w[:, None].expand(8, 6)),
    "layer with a scale of the last": lambda m, h: F.layer_norm(h.mT, (8,), m.w).mT,
    "one group": lambda m, h: F.group_norm(h, 1, m.w),
    "batch": lambda m, h: F.batch_norm(h, m.mean, m.variance, m.w),
    "batch in eval mode": lambda m, h: torch.ops.aten._native_batch_norm_legit_no_training(
        h, m.w, None, m.mean, m.variance, 0.1, 1e-5
    )[0],
}


@pytest.mark.parametrize("name", NORMS)
def test_a_normalisation_of_all_that_is_cut_is_proved(name: str) -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        h = torch.einsum("nk,kc,kl->ncl", x, m.a, m.b)
        return torch.einsum("ncl,co,lo->no", NORMS[name](m, h), m.c, m.d)

    result = halved(code)
    assert result.model.a.shape == (4, 4)
    assert result.model.b.shape == (4, 3)


SIZES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a range": lambda m, h: h.narrow(1, 2, 6) @ m.c[2:],
    "a range by keywords": lambda m, h: h.narrow(1, length=6, start=2) @ m.c[2:],
    "a range by all keywords": lambda m, h: h.narrow(start=2, dim=1, length=6) @ m.c[2:],
    "parts by keywords": lambda m, h: torch.cat(h.split(dim=1, split_size=[3, 5])[::-1], 1) @ m.c,
    "parts of one size by keywords": lambda m, h: (
        torch.cat(torch.split(h, dim=1, split_size_or_sections=4)) @ m.c[:4]
    ),
    "unflattened by keywords": lambda m, h: h.unflatten(sizes=(2, 4), dim=1).flatten(1) @ m.c,
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_found_by_their_names(name: str) -> None:
    assert halved(lambda m, x: SIZES[name](m, x @ m.a)).model.a.shape[1] < 8


def test_a_number_made_from_a_size_and_compared_with_keeps_it() -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        h = x @ m.a
        return (h @ m.c) * (x[:, :1].abs() * 9 < h.shape[1])

    assert "nothing to prune" in reasons(code)


SUMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mm": lambda h, g: h @ g.mT,
    "mv": lambda h, g: (h @ g[0])[:, None],
    "dot": lambda h, g: torch.dot(h[0], g[0]),
    "baddbmm": lambda h, g: torch.baddbmm(torch.zeros(1), h[None], g.mT[None])[0],
    "addmm": lambda h, g: torch.addmm(torch.zeros(1), h, g.mT),
}


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_of_products_that_are_not_zero_keeps_its_terms(name: str) -> None:
    assert "nothing to prune" in reasons(lambda m, x: SUMS[name]((x @ m.a).exp(), (x @ m.a).exp() + 1))


@pytest.mark.parametrize("name", SUMS)
def test_units_that_activations_are_summed_over_are_not_mixed(name: str) -> None:
    coupling = couple(trace(Code(lambda m, x: (x @ m.a) @ m.c + SUMS[name](x @ m.a, x @ m.a).sum()), X))
    refused = [Codable(coupling).refused(found) for found in group(coupling).free]
    assert any(reason is not None and "sums over its units without weights" in reason for reason in refused)


class Block(nn.Module):
    """A residual block with something behind its sum."""

    def __init__(self, behind: nn.Module) -> None:
        super().__init__()
        self.conv, self.behind = nn.Conv2d(4, 4, 1), behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(x + self.conv(x))


BEHIND: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "nothing": (nn.Identity, True),
    "relu": (nn.ReLU, True),
    "relu6": (nn.ReLU6, True),
    "layer norm": (lambda: nn.LayerNorm([4, 3, 3]), True),
    "group norm": (lambda: nn.GroupNorm(2, 4), True),
    "batch norm": (lambda: nn.BatchNorm2d(4), True),
    "a reshape": (lambda: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 3, 3))), True),
    "tanh": (nn.Tanh, False),
    "gelu": (nn.GELU, False),
    "a product": (lambda: nn.Conv2d(4, 4, 1), False),
}


@pytest.mark.parametrize("name", BEHIND)
def test_a_residual_stream_goes_on_behind_what_leaves_it_alone_or_normalises_it(name: str) -> None:
    behind, goes_on = BEHIND[name]
    model = nn.Sequential(*(Block(behind()) for _ in range(3)))
    blocks = blocks_of(model, trace(model, torch.randn(2, 4, 3, 3)))
    assert [block.path for block in blocks] == (["0", "1", "2"] if goes_on else [])


READ: dict[str, tuple[Callable[[Any], Tensor], bool]] = {
    "as it is": (lambda m: m.c, True),
    "halved": (lambda m: m.c / 2, True),
    "flipped": (lambda m: m.c.flip(1), True),
    "tiled": (lambda m: m.c.repeat(1, 2), True),
    "rounded": (lambda m: m.c.div(2, rounding_mode="floor"), False),
    "shifted": (lambda m: m.c + 1, False),
    "cut off": (lambda m: m.c.relu(), False),
}


@pytest.mark.parametrize("name", READ)
def test_a_weight_is_mixed_where_it_is_read_linearly(name: str) -> None:
    weight, linear = READ[name]
    coupling = couple(trace(Code(lambda m, x: (x @ m.a) @ weight(m)), X))
    (found,) = (each for each in group(coupling).free if any(member.name == "c" for member in each.members))
    assert (Codable(coupling).refused(found) is None) == linear
