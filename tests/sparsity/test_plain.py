"""Tensors that can't be cut as they are: one sentence names them and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization as q

import secateur
from secateur.core.errors import ModelError
from secateur.sparsity.plain import require_plain


class Wrapped(Tensor):
    """Stands for another tensor, as those of quantisation and of several processes do."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].inner)
        raise NotImplementedError(f"{func} is not for wrapped tensors")


class Plain(Tensor):
    """A class of somebody's, with nothing of its own."""


def with_weight(weight: Tensor) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model[0].weight = nn.Parameter(weight, requires_grad=False)
    return model


STRANGE: dict[str, tuple[Callable[[], Tensor], str]] = {
    "wrapped": (lambda: Wrapped(torch.randn(8, 4)), "0.weight is a Wrapped: prune the model before"),
    "sparse": (lambda: torch.randn(8, 4).to_sparse(), "0.weight is sparse: make it dense first"),
    "compressed": (lambda: torch.randn(8, 4).to_sparse_csr(), "0.weight is sparse"),
    "float8": (
        lambda: torch.randn(8, 4).to(torch.float8_e4m3fn),
        "0.weight is of type float8_e4m3fn: convert",
    ),
}


@pytest.mark.parametrize("granularity", ["weight", "channel", "layer"])
@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_parameter_is_named(name: str, granularity: str) -> None:
    weight, message = STRANGE[name]
    with pytest.raises(ModelError, match=message):
        secateur.prune(with_weight(weight()), torch.ones(1, 4), granularity=granularity, amount=0.5)


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_a_model_of_packed_weights_is_refused(granularity: str) -> None:
    model = nn.Sequential(q.QuantStub(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), q.DeQuantStub()).eval()
    model.qconfig = q.default_qconfig  # type: ignore[assignment]
    q.prepare(model, inplace=True)
    model(torch.randn(2, 4))
    q.convert(model, inplace=True)
    with pytest.raises(
        ModelError, match="1 is quantised, and its weights are packed: prune the model before"
    ):
        secateur.prune(model, torch.ones(1, 4), granularity=granularity, amount=0.5)


def test_plain_tensors_of_any_class_are_fine() -> None:
    require_plain(with_weight(torch.randn(8, 4).as_subclass(Plain)))
    require_plain(with_weight(torch.randn(8, 4, dtype=torch.bfloat16)))
    require_plain(nn.Linear(4, 2, device="meta"))
    require_plain(nn.LazyLinear(4))


class Neighbours(nn.Module):
    """Sums over neighbours, which a sparse buffer tells."""

    adjacency: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("adjacency", torch.eye(6).to_sparse())
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sparse.mm(self.adjacency, self.first(x).relu()))


def test_a_sparse_buffer_is_kept() -> None:
    result = secateur.prune(Neighbours(), torch.randn(6, 4), granularity="channel", amount=0.5)
    assert result.model.first.weight.shape == (4, 4)
    assert result.model.adjacency.is_sparse


def test_weights_that_are_buffers_alone_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    for layer in (model[0], model[2]):
        for name in ("weight", "bias"):
            tensor = getattr(layer, name).detach()
            delattr(layer, name)
            layer.register_buffer(name, tensor)
    for granularity in ("weight", "channel"):
        with pytest.raises(
            ModelError, match=r"has no parameters, and 0\.weight is a buffer: make its weights"
        ):
            secateur.prune(model, torch.ones(1, 4), granularity=granularity, amount=0.5)
