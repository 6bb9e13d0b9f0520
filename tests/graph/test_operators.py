"""Every row of the tables agrees with torch, today's and the oldest supported one, and no name has a second home."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torchvision  # noqa: F401  (declares operators of its own)
from aten_schemas import Schema, parsed, read, read_lines

import secateur
from secateur.graph.forwards import call_name
from secateur.graph.functions import FUNCTIONS
from secateur.graph.operators import OPERATORS, Effect, Operator
from secateur.graph.program import WRITE
from secateur.graph.rules.pointwise import TAGGED

OLDEST = Path(__file__).parent / "aten_2_11.txt.gz"
SOURCE = Path(secateur.__file__).parent
ROWS = [row for row in OPERATORS.values() if row.name != WRITE]
VERSIONS = ("installed", "oldest")


@cache
def schemas(version: str) -> dict[str, list[Schema]]:
    """Return name → overloads, without those that write into a given result; operators of torchvision as installed."""
    known = read(OLDEST) if version == "oldest" else declared("aten")
    return {**known, **declared("torchvision")}


@cache
def declared(namespace: str) -> dict[str, list[Schema]]:
    """Return the operators of a namespace that the tables name, as the installed package declares them."""
    functions = {name.rpartition(".")[2] for name, row in FUNCTIONS.items() if row.arguments}
    wanted = {form for name in {*OPERATORS, *functions} for form in (name, f"{name}_")}
    found: dict[str, list[Schema]] = {}
    for name in torch._C._dispatch_get_all_op_names():
        operator = name.removeprefix(f"{namespace}::").partition(".")[0]
        if name.startswith(f"{namespace}::") and operator in wanted:
            packet = getattr(getattr(torch.ops, namespace), operator)
            overload = getattr(packet, name.partition(".")[2] or "default")
            schema = parsed(str(overload._schema).removeprefix(f"{namespace}::"))
            marks = frozenset(["pointwise"] if torch.Tag.pointwise in overload.tags else [])
            if "Dimname" not in str(overload._schema) and not schema.writes_out:
                found.setdefault(operator, []).append(
                    Schema(schema.name, schema.overload, schema.arguments, marks)
                )
    return found


def overloads(name: str, version: str) -> list[Schema]:
    return [schema for form in (name, f"{name}_") for schema in schemas(version).get(form, [])]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_is_of_an_operator_of_torch(version: str) -> None:
    assert [row.name for row in ROWS if not overloads(row.name, version)] == []


def test_the_schemas_of_the_file_are_read_as_torch_reads_them() -> None:
    for line in read_lines(OLDEST):
        if not line.startswith("torch."):
            declared = torch._C.parse_schema(f"aten::{line.partition('  # ')[0]}")
            assert [*parsed(line).arguments] == [argument.name for argument in declared.arguments]


# Names of arguments: those that facts of a row give, and those that its rule asks for.


def facts(row: Operator) -> set[str]:
    """Return the arguments that the facts of a row name."""
    names: set[str | None] = set(row.single)
    if row.product is not None:
        names |= {row.product.left, row.product.right, row.product.addend}
    if row.norm is not None:
        names |= {*row.norm.tensors, row.norm.epsilon, row.norm.groups, row.norm.shape, *row.norm.sizes}
    return {name for name in names if name is not None}


class Question(NamedTuple):
    """A name that a rule asks for, and whether it does without an argument of this name."""

    name: str
    optional: bool


@cache
def calls(function: Callable[..., Any]) -> list[ast.Call]:
    """Return the calls of plain names in the source of a function."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]


@cache
def asked(function: Callable[..., Any]) -> frozenset[Question]:
    """Return the names that a rule, and what it calls among the rules, asks for."""
    found: set[Question] = set()
    for call in calls(function):
        name = ast.unparse(call.func)
        first = {"argument": 1, "given": 0}.get(name)
        if first is not None and isinstance(call.args[first], ast.Constant):
            found.add(Question(call.args[first].value, len(call.args) > first + 1))
        other = function.__globals__.get(name)
        if inspect.isfunction(other) and other.__module__.startswith("secateur.graph.rules."):
            found |= asked(other)
    return frozenset(found)


def test_the_names_that_rules_ask_for_are_found() -> None:
    assert asked(OPERATORS["mean"].rule) == {Question("dim", True), Question("keepdim", True)}
    assert Question("upscale_factor", False) in asked(OPERATORS["pixel_shuffle"].rule)
    assert Question("groups", False) in asked(OPERATORS["convolution"].rule)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_arguments_of_a_row_are_in_its_schema(row: Operator, version: str) -> None:
    known = overloads(row.name, version)
    for name in facts(row):
        assert any(name in schema.arguments for schema in known), f"{row.name} has no argument {name}"
    questions = asked(row.rule)
    for schema in known:
        needed = {question.name for question in questions if not question.optional}
        assert needed <= set(schema.arguments), f"{schema.name}.{schema.overload}"
        if "node.args[0]" in inspect.getsource(row.rule):
            assert "Tensor" in next(iter(schema.arguments.values()))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_rule_can_do_without_some_operator_of_it_has(version: str) -> None:
    for row in ROWS:
        sharing = [each for each in ROWS if each.rule is row.rule]
        for question in asked(row.rule):
            assert any(
                question.name in schema.arguments
                for each in sharing
                for schema in overloads(each.name, version)
            ), f"no operator with the rule of {row.name} has an argument {question.name}"


@pytest.mark.parametrize("version", VERSIONS)
def test_sizes_that_a_normalisation_is_given_are_integers(version: str) -> None:
    for row in ROWS:
        for name in (row.norm.shape, row.norm.groups, *row.norm.sizes) if row.norm else ():
            for schema in overloads(row.name, version):
                assert name is None or schema.arguments[name].startswith(("int", "SymInt"))


def test_no_row_says_what_the_tag_of_torch_says_already() -> None:
    for row in ROWS:
        if Operator("pointwise", row.rule, row.effect) == TAGGED:
            plain = Operator(row.name, row.rule, row.effect) == row
            tagged = [
                "pointwise" in schema.marks for version in VERSIONS for schema in overloads(row.name, version)
            ]
            assert not plain or not all(tagged), f"{row.name} needs no row"


def test_no_row_is_of_an_operator_that_torch_composes_of_others() -> None:
    for row in ROWS:
        marks = [schema.marks for schema in overloads(row.name, "oldest")]
        assert not all("composite" in mark for mark in marks), f"{row.name} never arrives whole"


# Functions.


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_the_name_that_the_recorder_writes(name: str) -> None:
    function: Any = torch
    for part in name.split(".")[1:]:
        function = getattr(function, part)
    assert call_name(function) == name


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [name for name, row in FUNCTIONS.items() if row.arguments])
def test_the_arguments_of_a_function_are_where_its_row_says(name: str, version: str) -> None:
    own = schemas(version).get(name, [])
    if version == "installed" and name.startswith(("torch.functional.", "torch.nn.functional.")):
        function = getattr(
            torch.functional if "nn" not in name else torch.nn.functional, name.rpartition(".")[2]
        )
        if inspect.isfunction(function):
            own = [Schema(name, "", dict.fromkeys(inspect.signature(function).parameters, "Any"))]
    known = [[*schema.arguments] for schema in own or schemas(version)[name.rpartition(".")[2]]]
    for argument in FUNCTIONS[name].arguments:
        assert any(argument.name in names for names in known)
        assert all(
            names.index(argument.name) == argument.position for names in known if argument.name in names
        )


# Facts.


def test_what_moves_entries_is_linear_and_no_product() -> None:
    for row in ROWS:
        assert not row.moves or row.product is None
        assert row.linear is None or row.effect is Effect.POINTWISE


def names_of_operators(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that compare the `op` of a node with written names."""
    for node in ast.walk(tree):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        attributes = {
            each.attr for side in sides for each in ast.walk(side) if isinstance(each, ast.Attribute)
        }
        written = [
            each
            for side in sides
            for each in ast.walk(side)
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        if "op" in attributes and written:
            yield node.lineno


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_operators_are_asked_for_what_they_are_not_for_their_names(path: Path) -> None:
    assert [*names_of_operators(ast.parse(path.read_text()))] == []


def test_a_comparison_with_names_is_found() -> None:
    assert [*names_of_operators(ast.parse('if node.op.rstrip("_") in ("mm", "bmm"): pass'))] == [1]
    assert [*names_of_operators(ast.parse('at = 0 if "convolution" in node.op else 1'))] == [1]


def test_a_name_has_one_row() -> None:
    from secateur.graph.rules.table import operator

    with pytest.raises(ValueError, match="mm has a row already"):
        operator("mm")(OPERATORS["mm"].rule)
