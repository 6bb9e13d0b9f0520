"""A traced program says the same as the model: what was computed, in which call, and where its sizes came from."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from structural_zoo import CASES, run
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import secateur
from secateur.core.errors import ModelError
from secateur.graph.forwards import call_name
from secateur.graph.program import Node, Program, Ref, refs, replace
from secateur.graph.sizes import Attribute, Extent, Scale, TracedSize, evaluate, leaves
from secateur.graph.trace import tensors_of, trace


class Code(nn.Module):
    """A model that runs a function; what it holds is given by name."""

    def __init__(self, code: Callable[..., Any], **held: Any) -> None:
        super().__init__()
        self.code = code
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.code(self, *inputs, **named)


def run_again(program: Program, model: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """Compute a program's outputs from nothing but its nodes; no operator may change a value there is already."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {index: state[name].detach() for name, index in program.tensors.items()}
    given_values = [value.id for value in program.values if value.kind == "input"]
    values.update(zip(given_values, inputs, strict=True))

    used = {*program.outputs, *(index for node in program.nodes for index in refs(node.args))}

    def filled(tree: Any) -> Any:
        return replace(tree, lambda leaf: values[leaf.id].clone() if isinstance(leaf, Ref) else leaf)

    def view(node: Node, of: Tensor, which: int) -> Tensor:
        source = next(refs(node.args))
        args = replace(
            node.args,
            lambda leaf: (of if leaf.id == source else values[leaf.id]) if isinstance(leaf, Ref) else leaf,
        )
        return tree_leaves(node.overload(*args, **node.kwargs))[which]

    for node in program.nodes:
        if node.op == "write":
            whole = part = values[node.args[0].id].clone()
            for number, which in node.args[1]:
                part = view(program.nodes[number], part, which)
            part.copy_(values[node.args[2].id])
            results = [whole]
        else:
            args, kwargs = filled(node.args), filled(node.kwargs)
            kwargs = kwargs | {"device": "cpu"} if "device" in kwargs else kwargs
            out = node.overload(*args, **kwargs)
            schema = node.overload._schema.arguments
            named = {**dict(zip((argument.name for argument in schema), args, strict=False)), **kwargs}
            written = [named[a.name] for a in schema if a.alias_info is not None and a.alias_info.is_write]
            results = [t for t in written if isinstance(t, Tensor)] or [
                leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)
            ]
        assert len(results) == len(node.outputs), node.op
        for index, result in zip(node.outputs, results, strict=True):
            assert index not in used or tuple(result.shape) == program.values[index].shape, node.op
            assert index not in values, "a value is made once"
            values[index] = result.clone()
    return [values[index] for index in program.outputs]


def check(code: Callable[..., Any], *inputs: Tensor, **held: Any) -> Program:
    """Trace a function and see that its program computes what it computes."""
    model = Code(code, **held)
    program = trace(model, inputs)
    found = run_again(program, model, *(tensor.clone() for tensor in inputs))
    with torch.no_grad():
        expected = tree_leaves(model(*(tensor.clone() for tensor in inputs)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    return program


def add_to_a_range(model: nn.Module, x: Tensor) -> Tensor:
    x = x * 1
    x[:, :3] += 2 * x[:, 3:]
    return x


def written_into_zeros(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    out = torch.zeros(len(x), 2 * x.shape[1])
    before = out[:, :2]
    out[:, : x.shape[1]] = x
    out[:, -1].fill_(7)
    return out, before, out.sum(1)


def a_view_is_rectified(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x + 0
    F.relu_(x[1:, 2:])
    return x, x * 2


def views_of_views(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x.clone()
    turned = x.t()
    rows = turned[1:4]
    last = rows.view(3, 2, 2)[:, :, 1] if rows.is_contiguous() else rows[:, 1::2]
    last.mul_(10)
    turned[0] = -1
    x.add_(1)
    return x, turned, rows, last


def old_results_stay(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x * 1
    doubled, again = 2 * x, x.clone()
    x.zero_()
    return doubled, again, x


def several_outputs_of_one_view(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x + 1
    one, two, three = x.chunk(3, 1)
    two.neg_()
    for row in three.unbind(0):
        row += 100
    return x, one, two, three


def an_input_is_written(model: nn.Module, x: Tensor) -> Tensor:
    head = x[:1]
    x.mul_(3)
    return head


def a_weight_is_read_through_views(model: nn.Module, x: Tensor) -> Tensor:
    return F.linear(x, model.weight.view(3, 2, 6).transpose(0, 1).reshape(6, 6)[:4])


def a_buffer_is_written(model: nn.Module, x: Tensor) -> Tensor:
    model.memory[:, 0] = x[0, :3]
    model.memory.copy_(model.memory * 2)
    return x @ model.memory.repeat(2, 3)


def written_by_index(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, torch.tensor([0, 3])] = 5.0
    x[x > 1] = 0.0
    x.index_add_(1, torch.tensor([1]), torch.ones(4, 1))
    return x


WRITES = [
    add_to_a_range, written_into_zeros, a_view_is_rectified, views_of_views, old_results_stay,
    several_outputs_of_one_view, an_input_is_written, a_weight_is_read_through_views,
]  # fmt: skip


@pytest.mark.parametrize("code", WRITES, ids=lambda code: code.__name__)
def test_writes_in_place_are_new_values(code: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    check(code, torch.randn(4, 6), weight=nn.Parameter(torch.randn(6, 6)))


def test_a_buffer_that_is_written_has_its_new_content() -> None:
    torch.manual_seed(0)
    model = Code(a_buffer_is_written)
    model.register_buffer("memory", torch.ones(3, 2))
    x = torch.randn(4, 6)
    program = trace(model, x)
    assert torch.equal(model.memory, torch.ones(3, 2))
    torch.testing.assert_close(run_again(program, copy.deepcopy(model), x), [model(x)], rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_the_program_of_every_small_model_computes_what_the_model_does(name: str) -> None:
    case = CASES[name]()
    program = trace(case.model, case.inputs)
    assert not any(
        value.kind == "constant" for value in program.values
    )  # whose numbers a program does not know
    inputs = [leaf.clone() for leaf in tree_leaves(case.inputs) if isinstance(leaf, Tensor)]
    with torch.no_grad():
        expected = tensors_of(run(case.model, case.inputs))
    torch.testing.assert_close(run_again(program, case.model, *inputs), expected, rtol=1e-4, atol=1e-5)


VIEWS: list[Callable[[Tensor], Any]] = [
    lambda t: t[:, 1:],
    lambda t: t[..., ::2],
    lambda t: t[-1],
    lambda t: t.t() if t.ndim == 2 else t.movedim(0, -1),
    lambda t: t.unsqueeze(-1),
    lambda t: t.squeeze(),
    lambda t: t.reshape(-1),
    lambda t: t.chunk(2, -1)[-1],
    lambda t: t.unbind(0)[0],
    lambda t: t.expand(2, *t.shape)[1],
    lambda t: t.view(t.shape),
    lambda t: t.detach(),
    lambda t: t.diagonal(dim1=-2, dim2=-1),
    lambda t: t.select(-1, 0),
]
CHANGES: list[Callable[[Tensor], Any]] = [
    lambda t: t.add_(1),
    lambda t: t.mul_(-2),
    lambda t: F.relu(t, inplace=True),
    lambda t: t.zero_(),
    lambda t: t.copy_(t.flip(0) if t.ndim else t + 3),
    lambda t: t.__setitem__(..., t.sum()),
    lambda t: torch.add(t, 5, out=t),
    lambda t: t.clamp_(-3, 3),
]
steps = st.lists(
    st.tuples(st.sampled_from(["view", "change", "new"]), st.integers(0, 99), st.integers(0, 99)), max_size=9
)


@settings(max_examples=80, deadline=None)
@given(steps)
def test_any_mixture_of_views_and_writes_is_functional(steps: list[tuple[str, int, int]]) -> None:
    def code(model: nn.Module, x: Tensor) -> list[Tensor]:
        tensors = [x, x * 2 + 1]
        for kind, which, what in steps:
            tensor = tensors[which % len(tensors)]
            if kind == "new":
                tensors.append(tensor.neg() if what % 2 else tensor.clone())  # exact in any layout
            elif kind == "change":
                CHANGES[what % len(CHANGES)](tensor)
            else:
                try:
                    tensors.append(VIEWS[what % len(VIEWS)](tensor))
                except (RuntimeError, IndexError):  # too few dimensions for it
                    continue
        return tensors

    check(code, torch.arange(12.0).reshape(3, 4) - 5)


def calls(program: Program) -> list[tuple[str, str, dict[str, int]]]:
    return [(call.name, call.module, call.nth) for call in program.calls]


def test_calls_are_counted_for_every_module_that_runs() -> None:
    inner = Code(lambda model, x: torch.relu(torch.relu(x)))
    outer = Code(
        lambda model, x: model.second(torch.relu(model.first(x))), first=inner, second=Code(inner.code)
    )
    relu = "torch.relu"
    assert calls(trace(nn.Sequential(outer), torch.ones(2))) == [
        (relu, "0.first", {"": 0, "0": 0, "0.first": 0}),
        (relu, "0.first", {"": 1, "0": 1, "0.first": 1}),
        (relu, "0", {"": 2, "0": 2}),
        (relu, "0.second", {"": 3, "0": 3, "0.second": 0}),
        (relu, "0.second", {"": 4, "0": 4, "0.second": 1}),
    ]


def test_each_function_has_its_own_count() -> None:
    program = trace(Code(lambda model, x: (x + 1).relu() + x.relu()), torch.ones(2))
    assert calls(program) == [
        ("torch.Tensor.add", "", {"": 0}),
        ("torch.Tensor.relu", "", {"": 0}),
        ("torch.Tensor.relu", "", {"": 1}),
        ("torch.Tensor.add", "", {"": 1}),
    ]


def test_a_shared_module_counts_anew_and_has_one_name() -> None:
    shared = nn.Linear(3, 3)
    program = trace(nn.Sequential(shared, nn.Sequential(shared), nn.ReLU()), torch.ones(1, 3))
    linear = [(call.module, call.nth) for call in program.calls if "linear" in call.name]
    assert linear == [("0", {"": 0, "0": 0}), ("0", {"": 1, "1": 0, "0": 0})]
    assert list(program.tensors) == ["0.weight", "0.bias"]
    used = {index for node in program.nodes for index in refs(node.args)}
    assert set(program.tensors.values()) <= used


def test_tied_tensors_are_one_value() -> None:
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.weight = one.weight
    program = trace(nn.Sequential(one, other), torch.ones(1, 3))
    assert list(program.tensors) == ["0.weight", "0.bias", "1.bias"]


def test_a_call_says_where_it_is_written_and_what_came_out() -> None:
    program = trace(Code(lambda model, x: torch.split(x, 2, 1)[0].sum()), torch.ones(2, 4))
    split = program.calls[0]
    assert split.source == f"test_trace.py:{_line_of('torch.split(x, 2, 1)[0].sum()')}"
    assert [program.values[index].shape for index in refs(split.outputs)] == [(2, 2), (2, 2)]
    assert [program.calls[node.call].name for node in program.nodes] == [
        "torch.functional.split",
        "torch.Tensor.sum",
    ]
    assert program.where(program.nodes[0]) == f"the model ({split.source})"


def _line_of(text: str) -> int:
    with open(__file__, encoding="utf-8") as file:
        return next(number for number, line in enumerate(file, 1) if text in line)


class Attentive(nn.Module):
    """Sizes of every origin in the calls of one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(6, 8)
        self.heads = 2
        self.window = [3, 4]
        self.config = SimpleNamespace(width=8, name="small", deep=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, length = x.shape[:2]
        y = self.projection(x).view(batch, length, self.heads, self.config.width // self.heads)
        y = y / math.sqrt(y.size(-1))
        return y.reshape(x.size(0), x.shape[1] * y.size(dim=2), self.window[1])


def test_sizes_reach_torch_with_their_origin() -> None:
    program = trace(Attentive(), torch.ones(5, 7, 6))
    by_name = {call.name: call for call in program.calls}
    view, divide = by_name["torch.Tensor.view"].args, by_name["torch.Tensor.div"].args
    reshape = by_name["torch.Tensor.reshape"].args
    x = next(value.id for value in program.values if value.kind == "input")
    y = divide[0].id
    assert view[1:] == (5, 7, 2, 4)
    assert [size.origin for size in view[1:4]] == [Extent(x, 0), Extent(x, 1), Attribute(":heads")]
    assert [leaf for leaf, _ in leaves(view[4])] == [Attribute(":config.width"), Attribute(":heads")]
    assert evaluate(view[4], lambda leaf, old: 1 if leaf == Attribute(":heads") else old) == 8
    assert type(divide[1]) is Scale
    assert list(leaves(divide[1])) == [(Extent(y, 3), 4)]
    assert reshape[3].origin == Attribute(":window.1")
    assert [old for _, old in leaves(reshape[2])] == [7, 2]
    assert program.attributes[":config.width"] == 8
    assert ":config.deep" not in program.attributes
    assert program.attributes["projection:out_features"] == 8


def test_sizes_are_of_the_value_they_were_read_from() -> None:
    program = trace(Code(lambda model, x: (x := torch.cat([x, x], 1)).view(x.shape[1], -1)), torch.ones(2, 3))
    size = program.calls[1].args[1]
    assert program.values[size.origin.value].shape == (2, 6)
    assert program.values[size.origin.value].kind == "result"


def test_code_that_looks_at_numbers_runs_on_the_real_ones() -> None:
    def code(model: nn.Module, x: Tensor) -> Tensor:
        return x.relu() if x.sum().item() > 0 else x.sigmoid()

    for sign, name in ((1, "torch.Tensor.relu"), (-1, "torch.Tensor.sigmoid")):
        program = trace(Code(code), sign * torch.ones(2, 3))
        assert program.real
        assert [call.name for call in program.calls if "sum" not in call.name and "item" not in call.name][
            -1
        ] == name
    assert not trace(Code(lambda model, x: x.relu()), torch.ones(2, 3)).real


def test_real_numbers_are_traced_as_fake_ones_are() -> None:
    torch.manual_seed(0)
    fake = check(add_to_a_range, torch.randn(4, 6))
    real = check(lambda model, x: add_to_a_range(model, x) * bool(x.isfinite().all()), torch.randn(4, 6))
    assert (fake.real, real.real) == (False, True)
    ops = [node.op for node in fake.nodes]
    assert [node.op for node in real.nodes][: len(ops)] == ops


@pytest.mark.parametrize("real", [False, True])
def test_buffers_and_inputs_that_the_code_writes_stay_the_users(real: bool) -> None:
    def code(model: nn.Module, x: Tensor) -> Tensor:
        model.steps += 1
        model.memory[0] = x[0, 0]
        x.mul_(2)
        if real and x.sum().item() > 1e9:
            return x
        return torch.relu(model.layer(x)) + model.memory.sum()

    model = Code(code, layer=nn.Linear(3, 3))
    model.register_buffer("steps", torch.zeros((), dtype=torch.int64))
    model.register_buffer("memory", torch.ones(2))
    x = torch.ones(2, 3)
    assert trace(model, x).real == real
    assert torch.equal(x, torch.ones(2, 3))
    assert (int(model.steps), model.memory.tolist()) == (0, [1.0, 1.0])


class Everything(nn.Module):
    """Attributes, modes, hooks and frozen tensors of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 2)
        self.width, self.sizes, self.pair = 8, [1, 2], (3, 4)
        self.config = SimpleNamespace(width=8, nested={"n": 1})
        self.first.weight.requires_grad_(False)
        self.norm.eval()
        self.tensor = torch.ones(2)
        self.first.register_forward_hook(lambda module, args, output: output + 0)
        self.register_forward_pre_hook(lambda module, args: None)
        self.last.register_full_backward_hook(lambda module, before, after: None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x)).flatten(2).transpose(1, 2)
        y = y.view(-1, y.shape[1], self.config.width)
        return self.last(self.attention(y, y, y)[0].mean(1))


def described(model: nn.Module) -> list[Any]:
    """Everything there is to see of a model, by module: its fields with their types, down to lists and records."""

    def seen(value: Any) -> Any:
        if isinstance(value, Tensor):
            return id(value), value.detach().clone().tolist(), value.requires_grad, value._version
        if isinstance(value, nn.Module) or callable(value):
            return id(value)
        if isinstance(value, dict):
            return type(value), [(key, seen(item)) for key, item in value.items()]
        if isinstance(value, list | tuple):
            return type(value), [seen(item) for item in value]
        if isinstance(value, SimpleNamespace):
            return id(value), seen(vars(value))
        return type(value), value

    return [(name, type(module), seen(vars(module))) for name, module in model.named_modules()]


@pytest.mark.parametrize("fails", [False, True])
def test_the_users_model_is_not_touched(fails: bool) -> None:
    model = Everything()
    before, root, threads = described(model), math.sqrt, torch.get_num_threads()
    backends = torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()
    if fails:
        with pytest.raises(ModelError, match="does not run on example inputs"):
            trace(model, torch.randn(2, 4, 5, 5))
    else:
        trace(model, torch.randn(2, 3, 5, 5))
        secateur.analyze(model, torch.randn(2, 3, 5, 5))
    assert described(model) == before
    assert (math.sqrt, torch.get_num_threads()) == (root, threads)
    assert (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()) == backends
    assert torch.is_grad_enabled()
    assert model.training
    assert not model.norm.training


def numbers(value: Any, depth: int = 4) -> Iterator[Any]:
    """Yield every number in a nest of fields."""
    if isinstance(value, int | float):
        yield value
    elif depth and isinstance(value, dict):
        for item in value.values():
            yield from numbers(item, depth - 1)
    elif depth and isinstance(value, list | tuple | set):
        for item in value:
            yield from numbers(item, depth - 1)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, nn.Module):
        yield from numbers(vars(value), depth - 1)


@pytest.mark.parametrize("inplace", [False, True])
def test_no_size_is_left_in_the_users_model_or_the_smaller_one(inplace: bool) -> None:
    torch.manual_seed(0)
    model = Everything().eval()
    result = secateur.prune(
        model, torch.randn(2, 3, 5, 5), granularity="channel", amount=0.5, scope="local", inplace=inplace
    )
    assert result.plan.kept
    found = [number for each in (model, result.model) for m in each.modules() for number in numbers(vars(m))]
    assert len(found) > 100
    assert {type(number) for number in found} <= {int, bool, float}


class Constant:
    """A configuration of which there is only one, whoever copies it."""

    def __init__(self) -> None:
        self.width, self.shape = 6, (2, 3)

    def __deepcopy__(self, memo: Any) -> Constant:
        return self


@pytest.mark.parametrize(
    "shared", [Constant(), logging.getLogger("secateur.tests")], ids=["constant", "logger"]
)
def test_an_object_that_copies_share_is_not_changed(shared: Any) -> None:
    trace(Code(lambda model, x: x.view(2, 3), shared=shared), torch.ones(6))
    assert {type(number) for number in numbers(vars(shared))} <= {int, bool, float}


def test_a_call_has_the_name_an_override_would_use() -> None:
    def code(model: nn.Module, x: Tensor) -> Tensor:
        return F.relu(x).view(-1).add_(1)[:2]

    program = trace(Code(code), torch.ones(2, 3))
    assert [call.name for call in program.calls] == [call_name(call.function) for call in program.calls]
    assert [call.name for call in program.calls][1:] == [
        "torch.Tensor.view",
        "torch.Tensor.add_",
        "torch.Tensor.__getitem__",
    ]


def test_slices_keep_the_sizes_in_them() -> None:
    program = trace(Code(lambda model, x: x[:, : x.shape[0]], width=2), torch.ones(2, 3))
    end = program.calls[0].args[1][1].stop
    assert type(end) is TracedSize
    assert end == 2


@pytest.mark.parametrize(
    ("inputs", "shown"),
    [
        (torch.ones(2, 3), r"\[2, 3\]"),
        ((torch.ones(2, 4), torch.ones(1)), r"\[2, 4\], \[1\]"),
        ({"y": torch.ones(2, 4)}, r"y=\[2, 4\]"),
        (None, "NoneType"),
    ],
)
def test_a_model_that_does_not_run_is_refused_with_the_shapes(inputs: Any, shown: str) -> None:
    with pytest.raises(
        ModelError, match=rf"^Linear does not run on example inputs of shape {shown} \(.*\): give"
    ):
        trace(nn.Linear(4, 2), inputs)


def test_an_error_without_words_is_named() -> None:
    def code(model: nn.Module, x: Tensor) -> Tensor:
        raise RuntimeError

    with pytest.raises(ModelError, match=r"\(RuntimeError\)"):
        trace(Code(code), torch.ones(1))


def test_keywords_lists_and_nested_outputs_are_followed() -> None:
    model = Code(lambda model, x, y: {"a": [x + y, (x * y,)], "past_key_values": x - y, "n": 3})
    for inputs in ([torch.ones(2), torch.ones(2)], {"x": torch.ones(2), "y": torch.ones(2)}):
        program = trace(model, inputs)
        producers = {output: node.op for node in program.nodes for output in node.outputs}
        assert [producers[index] for index in program.outputs] == ["add", "mul"]
