"""Attention heads of any number and width: stand-ins for `nn.MultiheadAttention` and the function that it calls.

PyTorch's own attention takes for granted that the heads together are as wide as the embedding, so that it can't run
with a head removed. `AttentionForward` computes the same as a module's forward from the shapes of the weights, and
`AttendingForward` has a module of somebody else, which calls `F.multi_head_attention_forward`, call that instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from secateur.core.errors import InputError
from secateur.core.modules import modules_of, named_modules, submodule
from secateur.graph.copies import is_plain_attention
from secateur.graph.forwards import Forward
from secateur.graph.program import Program

Projected = tuple[Tensor, Tensor, Tensor]


def attention_of(model: nn.Module, program: Program) -> list[str]:
    """Return the paths of the modules of a traced model that need a stand-in once heads are gone."""
    plain = [path for path, module in named_modules(model) if is_plain_attention(module)]
    return list(dict.fromkeys([*plain, *program.attending]))


def stand_in(model: nn.Module, paths: Iterable[str]) -> None:
    """Put a stand-in in the place of the forward of the modules at `paths`; again is harmless.

    Kernels that compute a whole encoder layer from one embedding size are switched off for these modules.
    """
    for path in paths:
        module: Any = submodule(model, path)
        if not isinstance(module, nn.MultiheadAttention) or not is_plain_attention(module):
            if not isinstance(module.__dict__.get("forward"), AttendingForward):
                AttendingForward(module)
            continue
        if not _stands_in(module):
            AttentionForward(module)
        module._qkv_same_embed_dim = False
    for encoder in modules_of(model):
        if isinstance(encoder, nn.TransformerEncoder) and any(map(_stands_in, modules_of(encoder))):
            encoder.use_nested_tensor = False


def _stands_in(module: nn.Module) -> bool:
    return isinstance(module.__dict__.get("forward"), AttentionForward)


class AttentionForward(Forward):
    """The forward of `nn.MultiheadAttention`, for weights whose heads are not as wide as the embedding.

    It takes and returns what the original does, all options included, except nested tensors. The number of heads and
    the width of a query or key are the module's `num_heads` and `head_dim`; the width of a value follows from the
    weights.
    """

    module: Any

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute softmax(q kᵀ / √head_dim + mask) v for each head, and project what the heads found."""
        return _attend(
            self.module,
            query,
            key,
            value,
            key_padding_mask,
            need_weights,
            attn_mask,
            average_attn_weights,
            is_causal,
        )


class AttendingForward(Forward):
    """The forward of a module that calls `F.multi_head_attention_forward`, with any number of heads there."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward that was there."""
        with _Attending():
            return self.original(*args, **kwargs)


class _Attending(TorchFunctionMode):
    """Computes attention from the shapes of the weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return attend(*args, **kwargs) if attends(func, kwargs) else func(*args, **kwargs)


def attends(function: Any, kwargs: dict[str, Any]) -> bool:
    """Whether `attend` computes a call of a torch function: all of attention but keys and values from elsewhere."""
    elsewhere = any(kwargs.get(name) is not None for name in ("static_k", "static_v"))
    return function is F.multi_head_attention_forward and not elsewhere


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: None = None,
    static_v: None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Compute `F.multi_head_attention_forward` for heads that together are of another width than the embedding."""
    packed = None if use_separate_proj_weight else in_proj_weight
    makes = q_proj_weight if packed is None else packed.chunk(3)[0]
    assert makes is not None
    module = SimpleNamespace(
        in_proj_weight=packed,
        in_proj_bias=in_proj_bias,
        q_proj_weight=q_proj_weight,
        k_proj_weight=k_proj_weight,
        v_proj_weight=v_proj_weight,
        bias_k=bias_k,
        bias_v=bias_v,
        add_zero_attn=add_zero_attn,
        dropout=dropout_p,
        training=training,
        num_heads=num_heads,
        head_dim=makes.shape[0] // num_heads,
        out_proj=SimpleNamespace(weight=out_proj_weight, bias=out_proj_bias),
        batch_first=False,
    )
    options = key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
    return _attend(module, query, key, value, *options)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    need_weights: bool,
    attn_mask: Tensor | None,
    average_attn_weights: bool,
    is_causal: bool,
) -> tuple[Tensor, Tensor | None]:
    """Compute softmax(q kᵀ / √head_dim + mask) v for each head, and project what the heads found."""
    if query.is_nested or query.dim() not in (2, 3):
        raise InputError("Attention takes a query of two or three dimensions, and no nested tensor.")
    if is_causal and attn_mask is None:
        raise InputError("is_causal only says that attn_mask is causal: pass the mask too.")
    unbatched = query.dim() == 2
    sequence_first = not (unbatched or module.batch_first)
    q, k, v = _project(module, query, key, value)
    if unbatched:
        q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
    elif sequence_first:
        q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
    if module.bias_k is not None:
        k = torch.cat((k, module.bias_k.expand(k.shape[0], -1, -1)), dim=1)
        v = torch.cat((v, module.bias_v.expand(v.shape[0], -1, -1)), dim=1)
    q = _heads(q, module.num_heads, module.head_dim)
    k = _heads(k, module.num_heads, module.head_dim)
    v = _heads(v, module.num_heads, -1)
    if module.add_zero_attn:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))

    causal = is_causal and key_padding_mask is None and not need_weights
    mask = _mask(q, k, None if causal else attn_mask, key_padding_mask, query.dtype)
    dropout = module.dropout if module.training else 0.0
    scale = module.head_dim**-0.5
    weights = None
    if need_weights:
        scores = (q * scale) @ k.transpose(-2, -1)
        weights = F.dropout((scores if mask is None else scores + mask).softmax(dim=-1), dropout)
        found = weights @ v
    else:
        found = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale=scale)

    found = found.transpose(1, 2)
    found = found.transpose(0, 1) if sequence_first else found
    output = F.linear(found.flatten(-2), module.out_proj.weight, module.out_proj.bias)
    if weights is not None and average_attn_weights:
        weights = weights.mean(dim=1)
    if unbatched:
        return output.squeeze(0), None if weights is None else weights.squeeze(0)
    return output, weights


def _project(module: Any, query: Tensor, key: Tensor, value: Tensor) -> Projected:
    """Return queries, keys and values, the heads side by side in the last dimension."""
    packed, bias = module.in_proj_weight, module.in_proj_bias
    if packed is None:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        widths = [weight.shape[0] for weight in weights]
    else:
        inner = module.num_heads * module.head_dim
        widths = [inner, inner, packed.shape[0] - 2 * inner]
        if query is key and key is value:
            q, k, v = F.linear(query, packed, bias).split_with_sizes(widths, dim=-1)
            return q, k, v
        weights = packed.split_with_sizes(widths)
    biases = (None, None, None) if bias is None else bias.split_with_sizes(widths)
    q, k, v = (F.linear(*each) for each in zip((query, key, value), weights, biases, strict=True))
    return q, k, v


def _heads(projected: Tensor, count: int, width: int) -> Tensor:
    """Return (batch, tokens, count · width) as (batch, count, tokens, width)."""
    return projected.view(*projected.shape[:-1], count, width).transpose(1, 2)


def _mask(
    q: Tensor, k: Tensor, attention: Tensor | None, padding: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """Return what is added to the scores, of a shape that broadcasts to (batch, heads, queries, keys)."""
    masks = []
    if attention is not None:
        attention = _additive(attention, dtype)
        masks.append(
            attention.view(*q.shape[:2], *attention.shape[1:]) if attention.dim() == 3 else attention
        )
    if padding is not None:
        masks.append(_additive(padding, dtype).view(q.shape[0], 1, 1, -1))
    if not masks:
        return None
    mask = masks[0] if len(masks) == 1 else masks[0] + masks[1]
    return F.pad(mask, (0, k.shape[-2] - mask.shape[-1]))  # keys that no caller knows of are always seen


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask as numbers to add: minus infinity where a boolean one hides a key."""
    if mask.is_floating_point():
        return mask
    if mask.dtype != torch.bool:
        raise InputError(f"An attention mask is boolean or floating-point, not {mask.dtype}.")
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
