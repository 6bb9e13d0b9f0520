"""The attention stand-in computes what `nn.MultiheadAttention` computes, and what it can't: heads of any number."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.graph.attention import AttentionForward, stand_in

EMBED, HEADS, BATCH, QUERIES, KEYS = 12, 4, 3, 5, 6
INF = float("-inf")


def attention(seed: int = 0, **options: object) -> nn.MultiheadAttention:
    torch.manual_seed(seed)
    module = nn.MultiheadAttention(EMBED, HEADS, dtype=torch.float64, **options)  # type: ignore[arg-type]
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def twin(module: nn.MultiheadAttention) -> nn.MultiheadAttention:
    other = copy.deepcopy(module)
    stand_in(other, [""])
    return other


def both(module: nn.MultiheadAttention, *args: Tensor, **kwargs: object) -> None:
    """Assert that the stand-in gives what the original gives, draws of the dropout included."""
    outcomes = []
    for one in (module, twin(module)):
        torch.manual_seed(1)
        inputs = [arg.clone().requires_grad_() for arg in dict.fromkeys(args)]
        leaf = dict(zip(dict.fromkeys(args), inputs, strict=True))
        output, weights = one(*(leaf[arg] for arg in args), **kwargs)
        gradients = torch.autograd.grad(output.square().sum(), [*inputs, *one.parameters()])
        outcomes.append((output, weights, gradients))
    (output, weights, gradients), (own, own_weights, own_gradients) = outcomes
    torch.testing.assert_close(own, output, rtol=1e-12, atol=1e-12)
    assert (weights is None) == (own_weights is None)
    if weights is not None:
        torch.testing.assert_close(own_weights, weights, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own_gradients, gradients, rtol=1e-11, atol=1e-11)


@given(
    kind=st.sampled_from(["self", "cross", "key is value"]),
    bias=st.booleans(),
    add_bias_kv=st.booleans(),
    add_zero_attn=st.booleans(),
    widths=st.sampled_from([{}, {"kdim": 7}, {"vdim": 5}, {"kdim": 7, "vdim": 5}]),
    batch_first=st.booleans(),
    batched=st.booleans(),
    dropout=st.sampled_from([0.0, 0.3]),
    train=st.booleans(),
    need_weights=st.booleans(),
    average=st.booleans(),
    mask=st.sampled_from([None, "bool", "float", "per head", "causal"]),
    padding=st.sampled_from([None, "bool", "float"]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_computes_what_the_original_computes(
    kind: str,
    bias: bool,
    add_bias_kv: bool,
    add_zero_attn: bool,
    widths: dict[str, int],
    batch_first: bool,
    batched: bool,
    dropout: float,
    train: bool,
    need_weights: bool,
    average: bool,
    mask: str | None,
    padding: str | None,
) -> None:
    if widths and kind != "cross":
        widths = {}
    module = attention(
        bias=bias,
        add_bias_kv=add_bias_kv,
        add_zero_attn=add_zero_attn,
        batch_first=batch_first,
        dropout=dropout,
        **widths,
    ).train(train)
    keys = QUERIES if kind == "self" else KEYS

    def tokens(length: int, width: int) -> Tensor:
        if not batched:
            return torch.randn(length, width, dtype=torch.float64)
        shape = (BATCH, length, width) if batch_first else (length, BATCH, width)
        return torch.randn(shape, dtype=torch.float64)

    query = tokens(QUERIES, EMBED)
    key = query if kind == "self" else tokens(keys, module.kdim)
    value = key if kind != "cross" else tokens(keys, module.vdim)
    visible = torch.ones(QUERIES, keys, dtype=torch.bool).tril()  # no row is hidden altogether
    masks = {
        None: None,
        "bool": ~visible,
        "float": torch.randn(QUERIES, keys, dtype=torch.float64),
        "per head": torch.randn((BATCH if batched else 1) * HEADS, QUERIES, keys, dtype=torch.float64),
        "causal": torch.zeros(QUERIES, keys, dtype=torch.float64).masked_fill(~visible, INF),
    }
    hidden = (torch.arange(keys) == keys - 1).repeat(BATCH, 1) if batched else torch.arange(keys) == keys - 1
    paddings = {None: None, "bool": hidden, "float": hidden.double() * -3}
    if padding == "bool" and mask not in (None, "bool"):
        padding = "float"  # mixing the two is deprecated
    if padding == "float" and mask == "bool":
        padding = "bool"
    both(
        module,
        query,
        key,
        value,
        need_weights=need_weights,
        average_attn_weights=average,
        attn_mask=masks[mask],
        key_padding_mask=paddings[padding],
        is_causal=mask == "causal" and not (add_bias_kv or add_zero_attn),
    )


@pytest.mark.parametrize("need_weights", [True, False])
def test_the_causal_hint_is_taken_as_the_original_takes_it(need_weights: bool) -> None:
    module = attention(batch_first=True, add_bias_kv=True).eval()
    x = torch.randn(BATCH, QUERIES, EMBED, dtype=torch.float64)
    mask = torch.ones(QUERIES, QUERIES, dtype=torch.bool).triu(1)
    both(module, x, x, x, attn_mask=mask, is_causal=True, need_weights=need_weights)


def test_a_token_with_nothing_to_see_gets_what_the_original_gives() -> None:
    module = attention(batch_first=True).eval()
    x = torch.randn(BATCH, QUERIES, EMBED, dtype=torch.float64)
    hidden = torch.ones(BATCH, QUERIES, dtype=torch.bool)
    for need_weights in (True, False):
        reference, _ = module(x, x, x, key_padding_mask=hidden, need_weights=need_weights)
        own, _ = twin(module)(x, x, x, key_padding_mask=hidden, need_weights=need_weights)
        torch.testing.assert_close(own, reference, equal_nan=True)


def cut_heads(
    module: nn.MultiheadAttention, heads: list[int], value_rows: list[int] | None = None
) -> nn.MultiheadAttention:
    """Return `module` with only these heads, and in each only these rows of its value."""
    width = module.head_dim
    rows = torch.tensor([head * width + row for head in heads for row in range(width)])
    inner = value_rows if value_rows is not None else list(range(width))
    values = torch.tensor([head * width + row for head in heads for row in inner])
    small = copy.deepcopy(module)
    with torch.no_grad():
        if small.in_proj_weight is not None:
            parts = torch.cat((rows, EMBED + rows, 2 * EMBED + values))
            small.in_proj_weight = nn.Parameter(small.in_proj_weight[parts])
        else:
            for name, index in (("q", rows), ("k", rows), ("v", values)):
                setattr(
                    small, f"{name}_proj_weight", nn.Parameter(getattr(small, f"{name}_proj_weight")[index])
                )
        if small.in_proj_bias is not None:
            small.in_proj_bias = nn.Parameter(
                small.in_proj_bias[torch.cat((rows, EMBED + rows, 2 * EMBED + values))]
            )
        if small.bias_k is not None and small.bias_v is not None:
            small.bias_k, small.bias_v = (
                nn.Parameter(small.bias_k[..., rows]),
                nn.Parameter(small.bias_v[..., values]),
            )
        small.out_proj.weight = nn.Parameter(small.out_proj.weight[:, values])
    small.num_heads = len(heads)
    stand_in(small, [""])
    return small


def by_hand(
    module: nn.MultiheadAttention, heads: list[int], value_rows: list[int], q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention of some heads of a whole module, one at a time, on unbatched tokens."""
    width, weights, output = module.head_dim, [], torch.zeros(len(q), EMBED, dtype=torch.float64)
    if module.in_proj_weight is None:
        matrices = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    else:
        matrices = list(module.in_proj_weight.chunk(3))
    biases = torch.zeros(3 * EMBED) if module.in_proj_bias is None else module.in_proj_bias
    for head in heads:
        rows = slice(head * width, (head + 1) * width)
        query, key, value = (
            (x @ matrix.T + bias)[:, rows]
            for x, matrix, bias in zip((q, k, v), matrices, biases.chunk(3), strict=True)
        )
        if module.bias_k is not None and module.bias_v is not None:
            key = torch.cat((key, module.bias_k[0, :, rows]))
            value = torch.cat((value, module.bias_v[0, :, rows]))
        attended = ((query @ key.T) / math.sqrt(width)).softmax(dim=1)
        weights.append(attended)
        columns = [head * width + row for row in value_rows]
        output = output + attended @ value[:, value_rows] @ module.out_proj.weight[:, columns].T
    if module.out_proj.bias is not None:
        output = output + module.out_proj.bias
    return output, torch.stack(weights)


@pytest.mark.parametrize("kept", [[0, 2], [1], [0, 1, 3]])
@pytest.mark.parametrize("value_rows", [[0, 1, 2], [0, 2]])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"kdim": 7, "vdim": 5}, {"add_bias_kv": True}], ids=str
)
def test_some_heads_give_what_these_heads_give_one_by_one(
    kept: list[int], value_rows: list[int], options: dict[str, object]
) -> None:
    module = attention(batch_first=True, **options).eval()
    small = cut_heads(module, kept, value_rows)
    q = torch.randn(2, QUERIES, EMBED, dtype=torch.float64)
    k = torch.randn(2, KEYS, module.kdim, dtype=torch.float64)
    v = torch.randn(2, KEYS, module.vdim, dtype=torch.float64)
    output, weights = small(q, k, v, average_attn_weights=False)
    fused, none = small(q, k, v, need_weights=False)
    assert none is None
    for at in range(2):
        expected, expected_weights = by_hand(module, kept, value_rows, q[at], k[at], v[at])
        torch.testing.assert_close(output[at], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(fused[at], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(weights[at], expected_weights, rtol=1e-12, atol=1e-12)


def test_self_attention_and_attention_to_a_copy_agree() -> None:
    small = cut_heads(attention(batch_first=True), [0, 3], [1, 2]).eval()
    x = torch.randn(2, QUERIES, EMBED, dtype=torch.float64)
    torch.testing.assert_close(small(x, x, x)[0], small(x, x.clone(), x.clone())[0], rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_takes_no_fast_path_around_it(norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        EMBED, HEADS, 16, batch_first=True, norm_first=norm_first, dtype=torch.float64
    )
    whole = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).eval()
    same, fewer = copy.deepcopy(whole), copy.deepcopy(whole)
    for original, one, other in zip(whole.layers, same.layers, fewer.layers, strict=True):
        one.self_attn = cut_heads(original.self_attn, [0, 1, 2, 3])
        other.self_attn = cut_heads(original.self_attn, [0, 2])
    stand_in(same, ["layers.0.self_attn", "layers.1.self_attn"])
    stand_in(fewer, ["layers.0.self_attn"])
    x = torch.randn(BATCH, QUERIES, EMBED, dtype=torch.float64)
    hidden = torch.arange(QUERIES) >= torch.tensor([[3], [5], [4]])
    with torch.no_grad():
        expected = whole(x, src_key_padding_mask=hidden)  # through nested tensors: zeros where hidden
        own = same(x, src_key_padding_mask=hidden)
        torch.testing.assert_close(own[~hidden], expected[~hidden], rtol=1e-10, atol=1e-10)
        short = fewer(x[2:, :4])
        padded = fewer(x[2:], src_key_padding_mask=hidden[2:])
    torch.testing.assert_close(padded[:, :4], short, rtol=1e-10, atol=1e-10)


def test_a_copy_a_pickle_and_a_second_installation_are_independent() -> None:
    module = twin(attention(batch_first=True)).eval()
    first = module.forward
    stand_in(module, [""])
    assert module.forward is first
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert isinstance(other.forward, AttentionForward)
        assert other.forward.module is other
        x = torch.randn(2, 3, EMBED, dtype=torch.float64)
        before = module(x, x, x)[0]
        with torch.no_grad():
            other.out_proj.weight.zero_()
        assert torch.equal(module(x, x, x)[0], before)
        assert not torch.equal(other(x, x, x)[0], before)


@pytest.mark.parametrize("need_weights", [True, False])
def test_compiles_and_exports(need_weights: bool) -> None:
    small = cut_heads(attention(batch_first=True), [1, 3]).eval()
    x = torch.randn(2, QUERIES, EMBED, dtype=torch.float64)
    expected = small(x, x, x, need_weights=need_weights)[0]
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, x, x, need_weights=need_weights)[0], expected)
    program = torch.export.export(small, (x, x, x), {"need_weights": need_weights})
    torch.testing.assert_close(program.module()(x, x, x, need_weights=need_weights)[0], expected)


def test_autocast_and_other_types_pass_through() -> None:
    small = cut_heads(attention(batch_first=True), [1, 3]).float()
    x = torch.randn(2, QUERIES, EMBED)
    exact = small(x, x, x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = small(x, x, x)[0]
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1)
    x = x.bfloat16()
    mask = torch.ones(QUERIES, QUERIES, dtype=torch.bool).triu(1)
    assert small.bfloat16()(x, x, x, attn_mask=mask, need_weights=False)[0].dtype == torch.bfloat16


def test_the_output_lies_in_memory_as_callers_expect() -> None:
    for batch_first, batched in itertools.product((True, False), (True, False)):
        small = cut_heads(attention(batch_first=batch_first), [1, 3])
        x = torch.randn((4, 5, EMBED) if batched else (5, EMBED), dtype=torch.float64)
        assert small(x, x, x, need_weights=False)[0].is_contiguous()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"is_causal": True}, "pass the mask too"),
        ({"attn_mask": torch.ones(QUERIES, QUERIES, dtype=torch.int64)}, "boolean or floating-point"),
    ],
)
def test_misuse_is_refused_with_a_sentence(arguments: dict[str, object], words: str) -> None:
    module = twin(attention())
    x = torch.randn(QUERIES, BATCH, EMBED, dtype=torch.float64)
    with pytest.raises(InputError, match=words):
        module(x, x, x, **arguments)
    with pytest.raises(InputError, match="two or three dimensions"):
        module(x[None], x[None], x[None])
