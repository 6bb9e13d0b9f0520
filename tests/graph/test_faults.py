"""A rule that fails is told as a fault of secateur's, and what it has touched stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.graph import functions
from secateur.graph.couple import couple
from secateur.graph.coupling import Coupling, Need, Rule
from secateur.graph.functions import Function
from secateur.graph.groups import Groups
from secateur.graph.operators import Operator
from secateur.graph.program import Node
from secateur.graph.rules import table
from secateur.graph.rules.table import UnknownForm
from secateur.graph.trace import trace
from secateur.runs.run import Run
from secateur.steps import grouping

X = torch.randn(2, 4)


class Two(nn.Module):
    """Two hidden layers whose results meet in an operator nobody knows better than the test."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.lerp(self.a(x), self.b(x), 0.5))


@pytest.fixture
def lerp(monkeypatch: pytest.MonkeyPatch) -> Callable[[Rule], Groups]:
    """Return the groups of `Two` with another rule for `lerp`."""

    def analyse(rule: Rule) -> Groups:
        monkeypatch.setitem(table.ROWS, "lerp", Operator("lerp", rule))
        return secateur.analyze(Two(), X)

    return analyse


def locked(groups: Groups) -> dict[str, str]:
    """Return "tensor.dimension" → the reason, for all that must stay and is no output."""
    return {
        f"{member.name}.{member.dim}": group.lock.reason
        for group in groups
        for member in group.members
        if group.lock is not None
    }


def test_a_rule_of_the_test_is_followed(lerp: Callable[[Rule], Groups]) -> None:
    def pass_on(c: Coupling, node: Node) -> None:
        c.give(node, [None, c.unite(node, c.of(node.args[0])[1], c.of(node.args[1])[1])])

    (group,) = lerp(pass_on).free
    assert {f"{m.name}.{m.dim}" for m in group.members} == {
        "a.weight.0",
        "a.bias.0",
        "b.weight.0",
        "b.bias.0",
        "out.weight.1",
    }


ERRORS = [
    ValueError("boom"),
    IndexError("boom"),
    TypeError("boom"),
    KeyError("boom"),
    AttributeError("boom"),
    AssertionError("boom"),
    ZeroDivisionError("boom"),
    RuntimeError("boom. And more\nof it"),
    NotImplementedError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_any_error_is_a_fault_of_the_rule_and_named(error: Exception, lerp: Callable[[Rule], Groups]) -> None:
    def fail(c: Coupling, node: Node) -> None:
        raise error

    groups = lerp(fail)
    assert groups.free == ()
    assert groups.unknown == {}
    ((fault, count),) = groups.faults.items()
    assert (fault.operator, count) == ("lerp", 1)
    said = f": {str(error).partition('.')[0]}" if str(error) else ""
    assert fault.error == type(error).__name__ + said
    assert fault.line.startswith("test_faults.py:")
    line = Path(__file__).read_text().splitlines()[int(fault.line.rpartition(":")[2]) - 1]
    assert line.strip() == "raise error"
    lock = next(group.lock for group in groups if group.name == "a.weight")
    assert lock is not None
    assert lock.reason == f"secateur's rule for lerp failed with {fault.error}, at {fault.line}"
    assert lock.at.startswith("lerp in the model (test_faults.py:")
    assert not any("no rule" in reason for reason in locked(groups).values())


def test_a_rule_that_fails_deep_inside_is_told_by_its_own_line(lerp: Callable[[Rule], Groups]) -> None:
    def fail(c: Coupling, node: Node) -> None:
        int("not a number")

    ((fault, _),) = lerp(fail).faults.items()
    assert fault.error == "ValueError: invalid literal for int() with base 10: 'not a number'"
    assert fault.line.startswith("test_faults.py:")


def test_a_rule_that_gives_vectors_of_a_wrong_shape_is_at_fault(lerp: Callable[[Rule], Groups]) -> None:
    groups = lerp(lambda c, node: c.give(node, []))
    assert groups.free == ()
    ((fault, _),) = groups.faults.items()
    assert fault.error.startswith("ValueError: the rule of lerp does not give vectors of shape (2, 6)")


HALVES: dict[str, Callable[[Coupling, Node, Any, Any], object]] = {
    "united half of what it must": lambda c, node, a, b: c.unite(node, a[:3], b[:3]),
    "united behind the coupling's back": lambda c, node, a, b: c.labels.unite(a[:3], b[3:], c.lock_for(node, "")),
    "united with labels of its own": lambda c, node, a, b: c.unite(node, a, c.labels.fresh(6)),
    "passed labels on": lambda c, node, a, b: c.give(node, [None, a]),
    "passed labels of its own on": lambda c, node, a, b: c.give(node, [None, c.labels.fresh(6)]),
    "noted what it would need": lambda c, node, a, b: c.need(node, Need(3, a[:3])),
    "noted a statistic and a part": lambda c, node, a, b: (c.crosses(node, a), c.heads.append(b)),
    "overwrote a vector of its operand's": lambda c, node, a, b: c.of(node.args[0]).__setitem__(1, None),
    "overwrote its operand's": lambda c, node, a, b: c.dims.update({node.args[0].id: [None, None]}),
}  # fmt: skip


@pytest.mark.parametrize("name", HALVES)
def test_a_half_finished_rule_leaves_all_it_touched_locked(name: str, lerp: Callable[[Rule], Groups]) -> None:
    def half(c: Coupling, node: Node) -> None:
        HALVES[name](c, node, c.of(node.args[0])[1], c.of(node.args[1])[1])
        raise RuntimeError("half done")

    groups = lerp(half)
    assert groups.free == ()
    found = locked(groups)
    assert {"a.weight.0", "a.bias.0", "b.weight.0", "b.bias.0", "out.weight.1"} <= set(found)
    coupling = groups.coupling
    assert coupling.crossed == []
    assert coupling.heads == []
    assert not any(coupling.needs.values())
    (node,) = (node for node in coupling.program.nodes if node.op == "lerp")
    assert coupling.dims[node.outputs[0]] == [None, None]


def test_labels_that_a_failing_rule_united_from_elsewhere_are_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    def astray(c: Coupling, node: Node) -> None:
        a, b = (c.dims[c.program.tensors[name]][0] for name in ("a.weight", "b.weight"))
        assert a is not None
        assert b is not None
        c.unite(node, a, b)
        raise RuntimeError("astray")

    class Apart(Two):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x)) + self.out(self.b(x)) + x.erfinv().sum()

    names = {"a.weight", "b.weight"}
    assert {group.name for group in secateur.analyze(Apart(), X).free} == {"a.weight"}
    monkeypatch.setitem(table.ROWS, "erfinv", Operator("erfinv", astray))
    groups = secateur.analyze(Apart(), X)
    assert groups.free == ()
    assert names <= {name.rpartition(".")[0] for name in locked(groups)}


def test_the_rest_of_the_model_is_cut_and_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(c: Coupling, node: Node) -> None:
        c.need(node, Need(6, c.of(node.args[0])[1]))
        c.crosses(node, c.of(node.args[0])[1])
        raise RuntimeError("half done")

    monkeypatch.setitem(table.ROWS, "lerp", Operator("lerp", half))
    model = nn.Sequential(Two(), nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    result = secateur.prune(model, X, granularity="channel", amount=0.5, scope="local")
    assert len(result.model[1].weight) == 4
    assert result.model[0].a.weight.shape == (6, 4)
    assert result.verification is not None
    assert result.verification.error <= 1e-9
    assert result.skipped["0.a.weight"].startswith(
        "secateur's rule for lerp failed with RuntimeError: half done"
    )


def test_a_form_that_a_rule_does_not_know_is_no_fault(lerp: Callable[[Rule], Groups]) -> None:
    def refuse(c: Coupling, node: Node) -> None:
        c.unite(node, c.of(node.args[0])[1], c.of(node.args[1])[1])
        raise UnknownForm("its weight is a tensor")

    groups = lerp(refuse)
    assert groups.free == ()
    assert groups.faults == {}
    assert groups.unknown == {"lerp": 1}
    assert locked(groups)["a.weight.0"] == (
        "secateur's rule for lerp does not know this form of it: its weight is a tensor"
    )


def test_memory_read_as_another_type_is_an_unknown_form() -> None:
    class Bits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.hidden(x).view(torch.int16)

    groups = secateur.analyze(Bits(), X)
    assert groups.faults == {}
    assert groups.unknown == {"view": 1}
    assert locked(groups)["hidden.weight.0"].endswith(
        "does not know this form of it: it reads the memory as numbers of another width"
    )


def test_what_must_be_done_about_a_call_may_fail_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(c: Coupling, number: int, call: Any) -> None:
        raise LookupError("no such call")

    name = "torch.lerp"
    monkeypatch.setattr(
        "secateur.graph.guard.FUNCTIONS", {**functions.FUNCTIONS, name: Function(name, rule=fail)}
    )
    groups = secateur.analyze(Two(), X)
    assert groups.free == ()
    ((fault, _),) = groups.faults.items()
    assert fault[:2] == (name, "LookupError: no such call")
    assert locked(groups)["b.weight.0"].startswith("secateur's rule for torch.lerp failed with LookupError")


def test_faults_are_told_where_unknown_operators_are(lerp: Callable[[Rule], Groups], tmp_path: Path) -> None:
    def fail(c: Coupling, node: Node) -> None:
        raise ValueError("boom")

    outcome = grouping.outcome(Run(tmp_path, {}, {}, (4,), 2), lerp(fail))
    (line,) = (line for line in outcome.lines if "lerp" in line)
    assert line.startswith(
        "What lerp touches stays (1): its rule failed with ValueError: boom at test_faults.py:"
    )
    assert outcome.record["unknown"] == {}
    (fault,) = outcome.record["faults"]
    assert (fault["operator"], fault["error"], fault["count"]) == ("lerp", "ValueError: boom", 1)


def test_no_rule_fails_on_a_model_that_runs() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )
    coupling = couple(trace(model, torch.randn(2, 3, 8, 8)))
    assert not coupling.faults
    assert not coupling.unknown
