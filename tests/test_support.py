"""What tests share lives in tests/support: a test module stands alone, and can be moved or run alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def ran(folder: Path, code: str, *words: str, **environment: str) -> tuple[int, str]:
    """Run pytest with the plugins of tests/support on a file in `folder`; return its exit code and what it printed."""
    (folder / "test_it.py").write_text("import pytest\n" + code)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = needs_data: real data\n")
    plugins = ["-p", "device_skips", "-p", "real_data", "-p", "xdist.plugin", "-p", "no:cacheprovider"]
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(TESTS / "support")}
    others = {key: value for key, value in os.environ.items() if key not in ("CI", "SECATEUR_DATA")}
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", *plugins, *words],
        cwd=folder,
        env={**others, **environment},
        capture_output=True,
        text=True,
    )
    return found.returncode, found.stdout


SKIPS = {
    "test": "@pytest.mark.skipif(True, reason='needs chromium')\ndef test_it(): pass",
    "in a test": "def test_it(): pytest.importorskip('nowhere')",
    "file": "pytest.importorskip('nowhere')",
}


@pytest.mark.parametrize("where", SKIPS)
def test_a_skip_fails_on_continuous_integration_alone(where: str, tmp_path: Path) -> None:
    code, out = ran(tmp_path, SKIPS[where], CI="true")
    assert code in (1, 2)
    assert "only a missing device is a reason" in out
    assert "1 skipped" in ran(tmp_path, SKIPS[where])[1]


def test_a_missing_device_is_a_reason_to_skip(tmp_path: Path) -> None:
    body = "@pytest.mark.skipif(True, reason='needs a GPU')\ndef test_it(): pass"
    code, out = ran(tmp_path, body, CI="true")
    assert code == 0
    assert "1 skipped" in out


NEEDY = """
def test_any(): pass
@pytest.mark.needs_data("MNIST/raw", "weights/*/net*.th")
def test_some(): pass
"""


@pytest.mark.parametrize("processes", ["0", "1"])
def test_tests_of_real_data_run_where_all_of_it_is_and_are_counted_otherwise(
    processes: str, tmp_path: Path
) -> None:
    number = ("-n", processes)
    told = "1 test needs real data: set SECATEUR_DATA to the folder that holds it"
    code, out = ran(tmp_path, NEEDY, *number, CI="true")
    assert (code, told in out, "skipped" in out) == (0, True, False)
    (tmp_path / "data/MNIST/raw").mkdir(parents=True)
    assert told in ran(tmp_path, NEEDY, *number, SECATEUR_DATA=str(tmp_path / "data"))[1]
    (tmp_path / "data/weights/cifar10").mkdir(parents=True)
    (tmp_path / "data/weights/cifar10/net20.th").touch()
    code, out = ran(tmp_path, NEEDY, *number, SECATEUR_DATA=str(tmp_path / "data"))
    assert (code, told in out, "2 passed" in out) == (0, False, True)
