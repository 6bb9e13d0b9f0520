"""The wheel and the sdist: what they hold, and that the tests of the one pass against the other.

`./dev package` runs a few folders of tests; SECATEUR_PACKAGE_TESTS="tests" runs all that the sdist holds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.package
ROOT = Path(__file__).parents[2]
SHIPPED = ("src", "tests", "docs", "benchmarks", "examples")
TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "pyproject.toml", "dev")
MADE = {"PKG-INFO", "setup.cfg"}
"""What setuptools adds to an sdist, beside src/secateur.egg-info."""
JUNK = (
    ".venv/lib/big.py",
    "runs/dense/run.json",
    "src/secateur/__pycache__/a.pyc",
    "tests/.cache/b",
    "build/lib/c.py",
)
TESTS = os.environ.get("SECATEUR_PACKAGE_TESTS", "tests/core tests/sparsity tests/report")
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")}


def done(*words: object, cwd: Path) -> str:
    """Run a command to its end; return what it printed."""
    ran = subprocess.run(list(map(str, words)), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-8000:]
    return ran.stdout


@dataclass(frozen=True)
class Built:
    """The files of the project, and the distributions made of them."""

    files: frozenset[str]
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build from a copy of the project's own files, with what a working folder gathers lying about."""
    listed = done("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    files = [name for name in listed if (ROOT / name).is_file()]
    copy, dist = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("dist")
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    for name in JUNK:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("junk")
    done(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, copy, cwd=dist)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    return Built(frozenset(files), wheel, sdist)


@pytest.fixture(scope="module")
def python(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel, sees the packages installed here, and nothing of the project's folder."""
    folder = tmp_path_factory.mktemp("venv")
    done(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    own = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    done(
        sys.executable,
        "-m",
        "pip",
        "--python",
        own,
        "install",
        "--no-deps",
        "--no-index",
        built.wheel,
        cwd=folder,
    )
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "packages_of_the_running_python.pth").write_text("\n".join(sorted(others)) + "\n")
    return own


@pytest.fixture(scope="module")
def unpacked(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built.sdist) as archive:
        archive.extractall(folder, filter="data")
    (inner,) = folder.iterdir()
    return inner


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == {name.removeprefix("src/") for name in built.files if name.startswith("src/")}
    data = ("py.typed", "steps/demo.yaml", "report/page.html", "report/style.css")
    assert {f"secateur/{name}" for name in data} <= held


def test_the_sdist_holds_sources_tests_documentation_and_benchmarks(built: Built, unpacked: Path) -> None:
    found = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    own = {name for name in found if not name.startswith("src/secateur.egg-info/")} - MADE
    assert own == {
        name for name in built.files if name.startswith(tuple(f"{each}/" for each in SHIPPED))
    } | set(TOP)
    assert os.access(unpacked / "dev", os.X_OK)


def test_the_tests_of_the_sdist_pass_against_the_wheel(python: Path, unpacked: Path) -> None:
    where = done(python, "-c", "import secateur; print(secateur.__file__)", cwd=unpacked)
    assert Path(where.strip()).is_relative_to(python.parents[1])
    words = ["-m", "not slow and not browser"] if TESTS != "tests" else []
    told = done(python, "-m", "pytest", "-q", "--numprocesses", "auto", *words, *TESTS.split(), cwd=unpacked)
    assert " passed" in told


def test_the_command_of_the_wheel_runs_the_demo(python: Path, tmp_path: Path) -> None:
    command = python.parent / "secateur"
    assert "magnitude" in done(command, "criteria", cwd=tmp_path)
    done(command, "demo", cwd=tmp_path)
    assert list(tmp_path.rglob("report.html"))
