"""Who imports whom: the table of docs/architecture.md is the law, and there are no circles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
MOST_UNITS = 28
"""Packages and modules on the top level that a newcomer can still take in."""


@cache
def modules() -> Mapping[str, Path]:
    """Dotted name → file of every module of the package."""
    found = {}
    for path in sorted((SOURCE / "secateur").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield what a file imports of ours, wherever in the file it does: at the top, in a function, for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules() else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@cache
def imports() -> Mapping[str, set[str]]:
    """Module → the modules of ours that it imports."""
    found = {name: set(imported(ast.parse(path.read_text()))) for name, path in modules().items()}
    return {name: {each for each in others if each in modules()} - {name} for name, others in found.items()}


def package(module: str) -> str:
    """Return the unit on the top level that a module belongs to; the empty one is the package itself."""
    return [*module.split("."), ""][1]


@cache
def table() -> Mapping[str, set[str]]:
    """Package → what it may import, in the order of the table of docs/architecture.md."""
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+)` \|.*\|([^|]*)\|$", text, re.MULTILINE)
    return {name: set(re.findall(r"`([a-z_]+)`", names)) for name, names in rows}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return one circle of a graph, empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_file_is_part_of_a_circle() -> None:
    assert circle(imports()) == []


def test_no_package_is_part_of_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, others in imports().items():
        graph.setdefault(package(module), set()).update(package(each) for each in others)
    assert circle({name: others - {name} for name, others in graph.items()}) == []


def test_the_table_names_every_package_and_no_other() -> None:
    packages = {path.name for path in (SOURCE / "secateur").iterdir() if (path / "__init__.py").exists()}
    assert set(table()) == packages


@pytest.mark.parametrize("name", table())
def test_a_package_imports_what_its_row_names_and_nothing_else(name: str) -> None:
    found = {
        package(each) for module, others in imports().items() if package(module) == name for each in others
    }
    assert found - {name} == table()[name]


def test_packages_stand_on_those_above_them() -> None:
    above: set[str] = set()
    for name, others in table().items():
        assert others <= above, f"{name} imports from below it"
        above.add(name)


def test_the_picture_shows_the_table() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    (picture,) = re.findall(r"<!-- picture: .*? -->\n```\n(.*?)```", text, re.DOTALL)
    rows = [row.split() for row in picture.splitlines()]
    level = {name: -at for at, row in enumerate(rows) for name in row}
    assert sorted(name for row in rows for name in row) == sorted(table())
    assert all(level[other] < level[name] for name, others in table().items() for other in others)


def test_the_top_level_can_be_taken_in() -> None:
    units = [path for path in (SOURCE / "secateur").iterdir() if path.suffix in ("", ".py")]
    assert len([path for path in units if path.name != "__pycache__"]) <= MOST_UNITS


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []
