"""What tests share lives in tests/support: a test module stands alone, and can be moved or run alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_module_imports_a_test_module() -> None:
    paths = [*TESTS.rglob("*.py"), *(TESTS.parent / "benchmarks").glob("*.py")]
    names = {path.stem for path in TESTS.rglob("test_*.py")}
    assert {path.name: set(imported(path)) & names for path in paths if set(imported(path)) & names} == {}
