"""Heads of attention that is not torch's module: its function called by others, and heads folded into a batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur


class Pool(nn.Module):
    """Attention of the mean over all places, by torch's function on the weights of four linear layers."""

    def __init__(self, width: int = 16, heads: int = 4, out: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, width, 3, stride=2)
        self.places = nn.Parameter(torch.randn(10, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj, self.num_heads = nn.Linear(width, out), heads

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x]) + self.places[:, None]
        found, _ = F.multi_head_attention_forward(
            query=x[:1],
            key=x,
            value=x,
            embed_dim_to_check=x.shape[-1],
            num_heads=self.num_heads,
            q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
            in_proj_weight=None,
            in_proj_bias=torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=self.c_proj.weight,
            out_proj_bias=self.c_proj.bias,
            use_separate_proj_weight=True,
            training=self.training,
            need_weights=False,
        )
        return found.squeeze(0)


class Packed(nn.Module):
    """The same function on one packed weight; with the weights of attention as a second output."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.bias = (
            nn.Parameter(torch.randn(3 * width, width)),
            nn.Parameter(torch.randn(3 * width)),
        )
        self.out, self.heads = nn.Linear(width, 5), heads

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found, weights = F.multi_head_attention_forward(
            x, x, x, x.shape[-1], self.heads, self.weight, self.bias, None, None, False, 0.0,
            self.out.weight, self.out.bias, training=False,
        )  # fmt: skip
        assert weights is not None
        return found, weights.sum((1, 2))


@pytest.mark.parametrize("granularity", ["channel", "head"])
def test_a_pooling_by_attention_loses_heads_and_channels(granularity: str, tmp_path: Path) -> None:
    model, x = Pool().eval(), torch.randn(2, 3, 7, 7)
    result = secateur.prune(model, x, granularity=granularity, amount=0.5, scope="local")
    assert result.verification.error < 1e-9
    width = 8 if granularity == "channel" else 16
    assert result.model.q_proj.weight.shape == (8, width)
    assert result.model.c_proj.weight.shape == (6, 8)
    assert result.model.num_heads == 2
    secateur.save(result, tmp_path / "small.safetensors")
    again = secateur.load(tmp_path / "small.safetensors", Pool().eval())
    torch.testing.assert_close(again(x), result.model(x), rtol=0, atol=0)
    twice = secateur.prune(again, x, granularity="head", amount=0.5)
    assert twice.model.q_proj.weight.shape == (4, width)


def test_a_packed_weight_given_to_the_function_of_attention() -> None:
    model, x = Packed().eval(), torch.randn(7, 2, 16)
    result = secateur.prune(model, x, granularity="head", amount=0.5)
    assert result.model.weight.shape == (24, 16)
    assert result.verification.error < 1e-9


def test_without_a_cut_the_function_computes_what_torch_does() -> None:
    model, x = Pool().eval(), torch.randn(2, 3, 7, 7)
    result = secateur.prune(model, x, granularity="head", amount=0.0)
    torch.testing.assert_close(result.model(x), model(x))


class Tokens(nn.Module):
    """Attention of transformers for tables: heads in the batch, their number in a private attribute."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.W_q, self.W_k, self.W_v = (nn.Linear(width, width) for _ in range(3))
        self.W_out, self._n_heads = nn.Linear(width, 3), heads

    def _split(self, x: Tensor) -> Tensor:
        (batch, tokens, width), heads = x.shape, self._n_heads
        x = x.reshape(batch, tokens, heads, width // heads).transpose(1, 2)
        return x.reshape(batch * heads, tokens, width // heads)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.W_q(x), self.W_k(x), self.W_v(x)
        width = k.shape[-1] // self._n_heads
        found = F.softmax(
            self._split(q) @ self._split(k).transpose(1, 2) / math.sqrt(width), -1
        ) @ self._split(v)
        found = found.reshape(len(x), self._n_heads, x.shape[1], width).transpose(1, 2)
        return self.W_out(found.reshape(len(x), x.shape[1], self._n_heads * width))


@pytest.mark.parametrize("batch", [1, 3])
def test_heads_counted_by_a_private_attribute(batch: int, tmp_path: Path) -> None:
    model, x = Tokens().eval(), torch.randn(batch, 5, 16)
    result: Any = secateur.prune(model, x, granularity="head", amount=0.5)
    assert result.verification.error < 1e-9
    assert (result.model._n_heads, model._n_heads) == (2, 4)
    assert result.model.W_q.weight.shape == (8, 16)
    secateur.save(result, tmp_path / "small.safetensors")
    again = secateur.load(tmp_path / "small.safetensors", Tokens().eval())
    torch.testing.assert_close(again(x), result.model(x), rtol=0, atol=0)
