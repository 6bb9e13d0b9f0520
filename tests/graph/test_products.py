"""The MACs of every product, counted by hand, by torch's own counter, on a pass and from the trace, are one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import secateur
from secateur.graph import cost as symbolic
from secateur.graph.couple import couple
from secateur.graph.coupling import Coupling
from secateur.graph.cut import Cut
from secateur.graph.groups import group
from secateur.graph.readers import reading
from secateur.graph.trace import trace
from secateur.importance.products import Products
from secateur.measure.cost import cost
from secateur.measure.products import PRODUCTS

aten = torch.ops.aten


class Code(nn.Module):
    """A model that runs a function; tensors it holds become parameters."""

    def __init__(self, code: Callable[..., Any], **held: Any) -> None:
        super().__init__()
        self.code = code
        for name, value in held.items():
            setattr(self, name, nn.Parameter(value) if isinstance(value, Tensor) else value)

    def forward(self, *inputs: Any) -> Any:
        return self.code(self, *inputs)


def within_inference(code: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        with torch.inference_mode():
            return code(*args)

    return run


X = torch.randn(3, 4)
IMAGE = torch.randn(2, 4, 7, 7)
HELD = {
    "w": torch.randn(6, 4),
    "v": torch.randn(4),
    "b": torch.randn(6),
    "k": torch.randn(6, 4, 3, 3),
    "kt": torch.randn(4, 6, 3, 3),
    "kg": torch.randn(6, 2, 3, 3),
}

BY_HAND: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...], int]] = {
    "mm": (lambda m, x: x @ m.w.T, (X,), 3 * 4 * 6),
    "addmm": (lambda m, x: F.linear(x, m.w, m.b), (X,), 3 * 4 * 6),
    "addmm in place": (lambda m, x: torch.zeros(3, 6).addmm_(x, m.w.T), (X,), 3 * 4 * 6),
    "linear": (within_inference(lambda m, x: F.linear(x, m.w, m.b)), (X,), 3 * 4 * 6),
    "linear on a grid": (within_inference(lambda m, x: F.linear(x[None], m.w)), (X,), 3 * 4 * 6),
    "linear on a vector": (within_inference(lambda m, x: F.linear(x[0], m.w)), (X,), 4 * 6),
    "matmul": (within_inference(lambda m, x: x @ m.w.T), (X,), 3 * 4 * 6),
    "bmm": (lambda m, x: x[None] @ m.w.T[None], (X,), 3 * 4 * 6),
    "baddbmm": (lambda m, x: torch.baddbmm(torch.zeros(1), x[None], m.w.T[None]), (X,), 3 * 4 * 6),
    "addbmm": (
        lambda m, x: torch.addbmm(torch.zeros(3, 6), torch.stack([x, x]), torch.stack([m.w.T, m.w.T])),
        (X,), 2 * 3 * 4 * 6,
    ),
    "mv": (lambda m, x: x @ m.v, (X,), 3 * 4),
    "mv by a weight": (lambda m, x: m.w @ x[0], (X,), 6 * 4),
    "mv of many": (lambda m, x: torch.stack([x, x]) @ m.v, (X,), 2 * 3 * 4),
    "addmv": (lambda m, x: torch.addmv(m.b, m.w, x[0]), (X,), 6 * 4),
    "dot": (lambda m, x: x[0] @ m.v, (X,), 4),
    "vdot": (lambda m, x: torch.vdot(x[0], m.v), (X,), 4),
    "einsum": (lambda m, x: torch.einsum("bi,oi->bo", x, m.w), (X,), 3 * 4 * 6),
    "einsum with a vector": (lambda m, x: torch.einsum("i,oi->o", x[0], m.w), (X,), 4 * 6),
    "tensordot": (lambda m, x: torch.tensordot(x, m.w, ([1], [1])), (X,), 3 * 4 * 6),
    "outer products are no sums": (lambda m, x: torch.outer(x[0], m.b), (X,), 0),
    "convolution": (lambda m, x: F.conv2d(x, m.k), (IMAGE,), 2 * 6 * 5 * 5 * 4 * 9),
    "transposed": (lambda m, x: F.conv_transpose2d(x, m.kt, stride=2), (IMAGE,), 2 * 4 * 7 * 7 * 6 * 9),
    "grouped": (lambda m, x: F.conv2d(x, m.kg, groups=2), (IMAGE,), 2 * 6 * 5 * 5 * 2 * 9),
    "mkldnn_convolution": (
        lambda m, x: aten.mkldnn_convolution(x, m.k, None, [0, 0], [1, 1], [1, 1], 1),
        (IMAGE,), 2 * 6 * 5 * 5 * 4 * 9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_macs_are_those_counted_by_hand(name: str) -> None:
    code, inputs, by_hand = BY_HAND[name]
    model = Code(code, **HELD)
    assert cost(model, inputs).macs == by_hand
    assert symbolic.macs(Cut.of(couple(trace(model, inputs)), [])) == by_hand
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    if (flops := counter.get_total_flops()) and not name.startswith("linear"):
        assert flops == 2 * by_hand


def test_macs_of_experts_are_those_counted_by_hand() -> None:
    x, offsets = torch.randn(8, 16).bfloat16(), torch.tensor([5, 8], dtype=torch.int32)
    code = lambda m, x, o: aten._grouped_mm(x, m.experts, o)  # noqa: E731
    model = Code(code, experts=torch.randn(2, 16, 8).bfloat16())
    coupling = couple(trace(model, (x, offsets)))
    assert [node.op for node in coupling.program.nodes] == ["_grouped_mm"]
    assert symbolic.macs(Cut.of(coupling, [])) == 8 * 16 * 8


SPELLED = [name for name, product in PRODUCTS.items() if hasattr(product, "equation")]


@pytest.mark.parametrize("name", [name for name in SPELLED if "grouped" not in name])
def test_an_equation_is_what_its_operator_computes(name: str) -> None:
    product = PRODUCTS[name]
    sizes = dict(zip("bijkt", (2, 3, 4, 5, 6), strict=True))
    random = torch.Generator().manual_seed(0)

    def made(letters: str) -> Tensor:
        shape = [7] * letters.startswith("…") + [sizes[letter] for letter in letters.removeprefix("…")]
        return torch.randint(-3, 4, shape, generator=random).to(
            torch.int8 if name == "_int_mm" else torch.float32
        )

    left, right = (made(letters) for letters in product.letters[:2])
    if name == "_int_mm":  # which takes more rows than others
        left, right = torch.cat([left] * 8), torch.cat([right, right], 1).contiguous()
        sizes |= {"i": 24, "j": 8}
    summed = torch.einsum(product.equation.replace("…", "..."), left.double(), right.double())
    given = {product.left: left, product.right: right}
    if product.addend is not None:
        given[product.addend] = made(product.letters[2][-1])
        summed = summed + given[product.addend]
    function = getattr(aten, name).default
    arguments = [given[each.name] for each in function._schema.arguments if each.name in given]
    torch.testing.assert_close(function(*arguments).double(), summed)
    letters = set("".join(product.letters)) - {"…"}
    terms = np.prod([sizes[letter] for letter in letters]) * (7 if "…" in product.equation else 1)
    assert product.macs(None, lambda side: given[side].shape) == terms


def test_a_weight_that_a_vector_meets_is_read() -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        hidden = x @ m.w.T
        return torch.stack([hidden @ m.b, hidden @ m.b.tanh()]) + torch.dot(hidden[0], m.c)

    coupling = couple(trace(Code(code, w=HELD["w"], b=HELD["b"], c=torch.randn(6)), X))
    read, dims = reading(coupling), coupling.dims
    tensors = coupling.program.tensors
    assert {name: bool(read[dims[tensors[name]][0]].any()) for name in "wbc"} == {
        "w": False, "b": True, "c": True,
    }  # fmt: skip


def test_macs_of_a_cut_are_those_of_the_smaller_model() -> None:
    def code(m: Any, x: Tensor) -> Tensor:
        hidden = (x @ m.w.T).tanh()
        return torch.stack([hidden @ m.b, torch.addmv(x[:, 0], hidden, m.b)]).sum()

    result = secateur.prune(
        Code(code, w=torch.randn(6, 4), b=torch.randn(6)), X, granularity="channel", amount=0.5, scope="local"
    )
    assert result.model.b.shape == (3,)
    assert result.macs == (3 * 4 * 6 + 2 * 3 * 6, 3 * 4 * 3 + 2 * 3 * 3)
    assert cost(result.model, X).macs == result.macs[1]


def test_nonzero_macs_of_a_vector_count_its_zeros() -> None:
    weight = torch.tensor([1.0, 0.0, 0.0, 2.0])
    found = cost(Code(lambda m, x: x @ m.v, v=weight), X)
    assert (found.macs, found.macs_nonzero) == (12, 6)


def told(coupling: Coupling) -> list[tuple[Any, ...]]:
    """Return what is told of groups: why they stay, and what they run through."""
    return [
        (found.units, found.lock and found.lock.reason, [(m.name, m.dim, m.reads) for m in found.members])
        for found in group(coupling)
    ]


COMPOSED: dict[str, Callable[..., Any]] = {
    "matmul": lambda m, x: x @ m.w.T,
    "layer norm": lambda m, x: F.layer_norm(x, (4,)),
    "reshaped": lambda m, x: x.reshape(2, 6).flatten().unflatten(0, (3, 4)).T.contiguous(),
    "activated": lambda m, x: F.dropout(F.selu(F.relu6(x)).softmax(1), 0.5, False),
    "split": lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1).tile(2, 1),
    "convolved": lambda m, x: F.max_pool2d(F.conv2d(x.view(1, 1, 3, 4), m.w[None, None, :2, :2]), 2),
    "attention": lambda m, x: F.scaled_dot_product_attention(x[None], m.w[None], m.w[None]),
    "to": lambda m, x: x.to(torch.float64).to(torch.float32),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_operators_composed_of_others_are_seen_in_their_parts(name: str) -> None:
    plain = couple(trace(Code(COMPOSED[name], **HELD), X))
    whole = couple(trace(Code(within_inference(COMPOSED[name]), **HELD), X))
    assert not whole.unknown
    assert not whole.faults
    assert told(whole) == told(plain)
    assert symbolic.macs(Cut.of(whole, [])) == symbolic.macs(Cut.of(plain, []))


def test_a_model_that_turns_gradients_off_itself_is_cut_and_proved() -> None:
    code = within_inference(lambda m, x: F.softmax(m.layers(x), -1) @ m.p)
    layers = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 6))
    model = Code(code, layers=layers, p=torch.randn(6, 2))
    result = secateur.prune(model, X, granularity="channel", amount=0.5, scope="local")
    assert result.model.layers[0].weight.shape == (4, 4)
    assert result.verification is not None
    assert result.verification.error <= 1e-9
    assert result.model.p.shape[0] == 3


@pytest.mark.parametrize(
    ("weight", "rows"),
    [
        (lambda m: m.s.T, 1),
        (lambda m: m.s, 0),
        (lambda m: m.s.permute(0, 1), 0),
        (lambda m: m.s.permute(1, 0), 1),
        (lambda m: m.s.T.permute(1, 0), 0),
        (lambda m: m.s.transpose(0, 0), 0),
    ],
)
def test_a_weight_is_followed_to_the_parameter_it_is(weight: Callable[[Any], Tensor], rows: int) -> None:
    model = Code(lambda m, x: x @ weight(m), s=torch.randn(4, 4))
    (product,) = Products(couple(trace(model, X)))
    assert (product.weight, product.rows) == ("s", rows)


@pytest.mark.parametrize("code", [
    lambda m, x: aten.mkldnn_convolution(x, m.k, None, [0, 0], [1, 1], [1, 1], 1),
    lambda m, x: F.conv2d(x, m.k),
])  # fmt: skip
def test_convolutions_of_any_backend_are_products(code: Callable[..., Any]) -> None:
    coupling = couple(trace(Code(code, k=HELD["k"]), IMAGE))
    (product,) = Products(coupling)
    assert (product.weight, product.rows, product.kernel, product.groups) == ("k", 1, (3, 3), 1)
    assert not coupling.faults
