"""Operators of detection, graphs, tables of embeddings and losses: cut through, proved, and counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.measure.cost import cost

HALF: dict[str, Any] = {"granularity": "channel", "amount": 0.5, "scope": "local"}


class Code(nn.Module):
    """A model that runs a function of its layers, made at the same state of chance each time."""

    def __init__(self, code: Callable[..., Any], **layers: Callable[[], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.code = code
        for name, layer in layers.items():
            setattr(self, name, layer())

    def forward(self, *inputs: Tensor) -> Any:
        return self.code(self, *inputs)


def halved(model: nn.Module, inputs: Any) -> nn.Module:
    """Cut half of each group, and see that the proof holds on other numbers, too."""
    result = secateur.prune(model.eval(), inputs, **HALF)
    assert result.verification is not None
    assert result.verification.error < 1e-9
    assert result.groups is not None
    assert not result.groups.unknown
    assert not result.groups.faults
    return result.model


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def deformed(groups: int = 1, offsets: int = 1, masked: bool = False) -> Code:
    def code(m: Any, x: Tensor) -> Tensor:
        h = m.first(x).relu()
        return m.last(m.deform(h, m.where(h), m.much(h).sigmoid() if masked else None).relu())

    return Code(
        code,
        first=lambda: nn.Conv2d(3, 8, 3, padding=1),
        where=lambda: nn.Conv2d(8, 18 * offsets, 3, padding=1),
        much=lambda: nn.Conv2d(8, 9 * offsets, 3, padding=1),
        deform=lambda: torchvision.ops.DeformConv2d(8, 12, 3, padding=1, groups=groups),
        last=lambda: nn.Conv2d(12, 2, 1),
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("groups", "offsets"), [(1, 1), (1, 2), (2, 1), (4, 2)])
def test_deformable_convolutions(groups: int, offsets: int, masked: bool) -> None:
    small = halved(deformed(groups, offsets, masked), IMAGE)
    assert small.first.weight.shape[0] == 4
    assert small.where.weight.shape[:2] == (18 * offsets, 4)
    assert small.deform.weight.shape[0] == small.last.weight.shape[1] < 12


def test_the_work_of_a_deformable_convolution_is_that_of_a_plain_one() -> None:
    model = deformed()
    plain = 2 * 64 * (27 * 8 + 72 * 18 + 12 * 72 + 12 * 2)
    assert cost(model, IMAGE).macs == plain
    assert secateur.prune(model, IMAGE, **HALF).macs[0] == plain


def test_regions_of_maps() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 5.0, 6.0], [1.0, 2.0, 2.0, 7.0, 7.0]])
    for look in (torchvision.ops.roi_align, torchvision.ops.roi_pool):
        code = lambda m, x, boxes, look=look: m.last(look(m.first(x).relu(), boxes, (2, 2)).flatten(1))  # noqa: E731
        model = Code(code, first=lambda: nn.Conv2d(3, 8, 3, padding=1), last=lambda: nn.Linear(32, 2))
        small = halved(model, (IMAGE, boxes))
        assert (small.first.weight.shape[0], small.last.weight.shape[1]) == (4, 16)


BAGS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "sum": (lambda: nn.EmbeddingBag(9, 8, mode="sum"), (torch.randint(9, (3, 4)),)),
    "mean of offsets": (lambda: nn.EmbeddingBag(9, 8), (torch.randint(9, (7,)), torch.tensor([0, 2, 5]))),
    "mean, the last offset too": (
        lambda: nn.EmbeddingBag(9, 8, include_last_offset=True),
        (torch.randint(9, (7,)), torch.tensor([0, 2, 5, 7])),
    ),
    "largest": (lambda: nn.EmbeddingBag(9, 8, mode="max"), (torch.randint(9, (3, 4)),)),
    "padded": (lambda: nn.EmbeddingBag(9, 8, padding_idx=0), (torch.randint(9, (3, 4)),)),
    "weighted": (
        lambda: nn.EmbeddingBag(9, 8, mode="sum"),
        (torch.randint(9, (7,)), torch.tensor([0, 2, 5]), torch.rand(7)),
    ),
    "a largest norm": (lambda: nn.EmbeddingBag(9, 8, max_norm=1.0), (torch.randint(9, (3, 4)),)),
    "a table": (lambda: nn.Embedding(9, 8), (torch.randint(9, (3,)),)),
    "a table with a largest norm": (lambda: nn.Embedding(9, 8, max_norm=0.5), (torch.randint(9, (3,)),)),
    "a table with a largest sum": (
        lambda: nn.Embedding(9, 8, max_norm=0.5, norm_type=1.0),
        (torch.randint(9, (3,)),),
    ),
}


@pytest.mark.parametrize("name", BAGS)
def test_bags_of_embeddings(name: str) -> None:
    table, inputs = BAGS[name]
    model = Code(lambda m, *given: m.last(m.table(*given).tanh()), table=table, last=lambda: nn.Linear(8, 2))
    before = model.table.weight.detach().clone()
    small = halved(model, inputs)
    assert torch.equal(model.table.weight, before), "rows are scaled down in the copies alone"
    assert small.table.weight.shape == (9, 4)
    assert small.table.embedding_dim == 4


def test_a_largest_norm_leaves_a_table_of_doubles_alone() -> None:
    model = Code(
        lambda m, x: m.last(m.table(x)),
        table=lambda: nn.Embedding(9, 8, max_norm=0.5),
        last=lambda: nn.Linear(8, 2),
    )
    model.double()
    before = model.table.weight.detach().clone()
    halved(model, torch.arange(9))
    assert torch.equal(model.table.weight, before)


def test_a_weight_normalised_by_rows() -> None:
    code = lambda m, x: m.last(F.linear(x, m.w.renorm(2, 0, 0.5)).relu())  # noqa: E731
    model = Code(code, w=lambda: nn.Parameter(torch.randn(8, 4)), last=lambda: nn.Linear(8, 2))
    assert halved(model, torch.randn(3, 4)).w.shape == (4, 4)


DISTANCES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "cdist": lambda m, h: torch.cdist(h, m.p),
    "cdist in batches": lambda m, h: torch.cdist(h.view(3, 1, -1), m.p),
    "cdist, sums": lambda m, h: torch.cdist(h, m.p, p=1.0),
    "cdist, largest": lambda m, h: torch.cdist(h, m.p, p=torch.inf),
    "cdist of itself": lambda m, h: torch.cdist(h, h),
    "pdist": lambda m, h: F.pdist(h),
    "pairwise": lambda m, h: F.pairwise_distance(h, m.p[:3]),
    "cosine": lambda m, h: F.cosine_similarity(h[:, None], m.p[None], dim=-1),
    "distance": lambda m, h: torch.dist(h, m.p[:3]),
    "mean square": lambda m, h: F.mse_loss(h, m.p[:3]),
    "sum of squares": lambda m, h: F.mse_loss(h, m.p[:3], reduction="sum"),
    "squares": lambda m, h: F.mse_loss(h, m.p[:3], reduction="none").mean(1),
    "smooth": lambda m, h: F.smooth_l1_loss(h, m.p[:3]),
    "huber": lambda m, h: F.huber_loss(h, m.p[:3]),
    "entropy": lambda m, h: F.binary_cross_entropy(h, m.p[:3].sigmoid()),
    "entropy of logits": lambda m, h: F.binary_cross_entropy_with_logits(h, m.p[:3].sigmoid()),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_are_those_of_what_stays(name: str) -> None:
    code = lambda m, x: DISTANCES[name](m, m.first(x).sigmoid())  # noqa: E731
    model = Code(code, first=lambda: nn.Linear(4, 8), p=lambda: nn.Parameter(torch.randn(5, 8)))
    small = halved(model, torch.randn(3, 4))
    assert small.first.weight.shape == (4, 4)
    assert small.p.shape[1] == (8 if name in ("cdist of itself", "pdist") else 4)


class Sparse(nn.Module):
    """Sums over neighbours between two layers."""

    def __init__(self, spread: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spread, self.first, self.last = spread, nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, adjacency: Tensor, x: Tensor) -> Tensor:
        return self.last(self.spread(adjacency, self.first(x).relu()))


EDGES = (torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()
SPREADS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sparse.mm": torch.sparse.mm,
    "@": lambda a, h: a @ h,
    "spmm": lambda a, h: torch.spmm(a, h),
    "sparse.addmm": lambda a, h: torch.sparse.addmm(h, a, h, beta=0.5),
    "addmm": lambda a, h: torch.addmm(h, a, h),
    "in batches": lambda a, h: torch.bmm(torch.stack([a, a]), torch.stack([h, h])).sum(0),
}


@pytest.mark.parametrize("layout", [Tensor.to_sparse, Tensor.to_sparse_csr])
@pytest.mark.parametrize("name", SPREADS)
def test_sums_over_neighbours(name: str, layout: Callable[[Tensor], Tensor]) -> None:
    if name == "in batches" and layout is Tensor.to_sparse_csr:
        return  # torch stacks no compressed tensors
    small = halved(Sparse(SPREADS[name]), (layout(EDGES), torch.randn(6, 4)))
    assert (small.first.weight.shape[0], small.last.weight.shape[1]) == (4, 4)


GRAPHS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index_add": lambda to, h: torch.zeros(6, h.shape[1], dtype=h.dtype).index_add(0, to, h),
    "scatter_add": lambda to, h: torch.zeros_like(h).scatter_add(0, to[:, None].expand_as(h), h),
    "scatter_reduce": lambda to, h: torch.zeros_like(h).scatter_reduce(
        0, to[:, None].expand_as(h), h, reduce="amax"
    ),
    "index_reduce": lambda to, h: torch.ones_like(h).index_reduce(0, to, h, "mean"),
    "segments": lambda to, h: torch.segment_reduce(h, "mean", lengths=torch.tensor([2, 1, 3])),
    "take along": lambda to, h: h.take_along_dim(to[:, None], 0),
    "index_select": lambda to, h: h.index_select(0, to),
    "index": lambda to, h: h[to],
}


@pytest.mark.parametrize("name", GRAPHS)
def test_sums_over_edges(name: str) -> None:
    code = lambda m, to, x: m.last(GRAPHS[name](to, m.first(x).relu()))  # noqa: E731
    model = Code(code, first=lambda: nn.Linear(4, 8), last=lambda: nn.Linear(8, 2))
    small = halved(model, (torch.tensor([0, 2, 2, 1, 5, 0]), torch.randn(6, 4)))
    assert (small.first.weight.shape[0], small.last.weight.shape[1]) == (4, 4)


def test_a_grid_that_a_matrix_makes() -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        h = m.first(x).relu()
        matrix = m.where(h.mean((2, 3))).view(-1, 2, 3)
        return m.last(F.grid_sample(h, F.affine_grid(matrix, list(h.shape), False), align_corners=False))

    model = Code(
        code,
        first=lambda: nn.Conv2d(3, 8, 3),
        where=lambda: nn.Linear(8, 6),
        last=lambda: nn.Conv2d(8, 2, 1),
    )
    small = halved(model, IMAGE)
    assert small.where.weight.shape == (6, 4)


class Deformable(nn.Module):
    """Deformable attention: heads are folded into the batch of what is looked at and of where."""

    def __init__(self, width: int = 16, heads: int = 4, points: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.points = heads, points
        self.value, self.offsets = nn.Linear(width, width), nn.Linear(width, heads * points * 2)
        self.weights, self.out = nn.Linear(width, heads * points), nn.Linear(width, 3)

    def forward(self, query: Tensor, image: Tensor) -> Tensor:
        (b, q, c), heads, points = query.shape, self.heads, self.points
        value = self.value(image).view(b, 16, heads, c // heads).permute(0, 2, 3, 1)
        grid = self.offsets(query).view(b, q, heads, points, 2).tanh().transpose(1, 2).flatten(0, 1)
        weights = self.weights(query).view(b, q, heads, points).softmax(-1).transpose(1, 2)
        seen = F.grid_sample(value.reshape(b * heads, c // heads, 4, 4), grid, align_corners=False)
        mixed = (seen * weights.reshape(b * heads, 1, q, points)).sum(-1)
        return self.out(mixed.view(b, c, q).transpose(1, 2))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("granularity", ["channel", "head"])
def test_heads_folded_into_the_batch_of_a_grid(granularity: str, batch: int) -> None:
    model, inputs = Deformable(), (torch.randn(batch, 5, 16), torch.randn(batch, 16, 16))
    result = secateur.prune(model, inputs, granularity=granularity, amount=0.5)
    assert result.verification is not None
    assert result.verification.error < 1e-9
    kept = result.plan.kept
    heads = [
        sorted({int(i) // wide for i in kept[f"{name}.weight"][0]})
        for name, wide in (("value", 4), ("offsets", 4), ("weights", 2))
    ]
    assert heads[0] == heads[1] == heads[2]
    assert len(heads[0]) == 2
