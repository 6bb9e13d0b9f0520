"""One name, one meaning: classes, type aliases and constants of modules are called alike nowhere in the package."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "secateur"
LOCAL = {"T", "app", "__all__"}
"""A type variable, the typer objects of two command groups, and lists of exported names."""


def defined(tree: ast.Module) -> Iterator[str]:
    """Yield the classes, type aliases and constants that a module defines, without leading underscores."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name.strip("_")
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            for name in ast.walk(target) if isinstance(node, ast.Assign | ast.AnnAssign) and target else ():
                if isinstance(name, ast.Name) and re.match(r"_?[A-Z]", name.id):
                    yield name.id.strip("_")


def test_names_mean_one_thing() -> None:
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in defined(ast.parse(path.read_text())):
            places[name].append(str(path.relative_to(PACKAGE)))
    assert len(places) > 300
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in LOCAL} == {}


def test_a_second_meaning_is_seen() -> None:
    assert [*defined(ast.parse("class A: ...\nB: int = 1\n_C, D = 1, 2\nd = 3\nfor E in (): ..."))] == [
        "A", "B", "C", "D",
    ]  # fmt: skip
