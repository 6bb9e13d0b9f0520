"""Packages that may be missing: one sentence with the way out, and an environment that has the core's alone."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import core_road
import pytest

import secateur
from secateur.core import progress
from secateur.core.errors import MissingExtraError
from secateur.core.extras import DISTRIBUTIONS, need

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it there
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
SCRIPT = Path(core_road.__file__)
SENTENCE = re.compile(r"[A-Z].* needs the package (\S+): install it with pip install (\S+)\.")


@pytest.mark.parametrize(
    ("package", "extra", "sentence"),
    [
        ("altair", "", "A chart needs the package altair: install it with pip install altair."),
        ("yaml", "", "A chart needs the package pyyaml: install it with pip install pyyaml."),
        ("PIL.Image", "", "A chart needs the package pillow: install it with pip install pillow."),
        ("ray", "ray", "A chart needs the package ray: install it with pip install 'secateur[ray]'."),
    ],
)
def test_what_is_missing_is_named(
    package: str, extra: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError) as caught:
        need(package, extra=extra, for_="A chart")
    assert str(caught.value) == sentence
    assert isinstance(caught.value, ImportError)


def test_what_is_there_is_returned() -> None:
    assert need("json", for_="A chart") is json


def test_bars_are_silent_without_rich(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    progress.console.cache_clear()
    monkeypatch.setitem(sys.modules, "rich", None)
    with progress.bar("work", total=2) as running:
        running.advance()
        running.say("half")
    assert list(progress.track([1, 2], "work", 2)) == [1, 2]
    assert capfd.readouterr() == ("", "")


def needed() -> Iterator[tuple[str, str]]:
    """Yield what `need` is called with in the source: package and extra."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need":
                given = {word.arg: word.value for word in node.keywords}
                extra = given.get("extra", ast.Constant(""))
                if isinstance(node.args[0], ast.Constant):
                    yield str(node.args[0].value), str(getattr(extra, "value", ""))


def test_what_the_sentences_say_installs_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: Mapping[str, list[str]] = {"": project["dependencies"], **project["optional-dependencies"]}
    assert len(set(needed())) > 15
    for package, extra in set(needed()) - {("math", "")}:
        top = package.partition(".")[0]
        name = DISTRIBUTIONS.get(package) or DISTRIBUTIONS.get(top, top)
        named = [re.split(r"[><=\[]", each)[0] for each in extras[extra]]
        assert name in named or name == "markupsafe", f"{name} is not of the extra '{extra}'"


@cache
def blocked() -> Any:
    """What the core does in a process that finds no other package, once for all tests."""
    return told([sys.executable, str(SCRIPT), "--block"], {**os.environ, "PYTHONPATH": str(ROOT / "src")})


def told(command: list[str], environment: Mapping[str, str]) -> Any:
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.slow
def test_the_core_needs_torch_numpy_safetensors_and_scipy_alone() -> None:
    check(blocked())


@pytest.mark.slow
@pytest.mark.parametrize("name", core_road.NEEDING)
def test_everything_else_names_what_it_lacks(name: str) -> None:
    assert SENTENCE.fullmatch(blocked()["missed"][name])


def check(found: Any) -> None:
    """Everything was cut, nothing was loaded that should not be there."""
    assert found["loaded"] == []
    assert len([road for road in found["cuts"] if road.endswith(("drop", "reconstruct"))]) == 20
    for criterion in secateur.CRITERIA:
        assert any(road.endswith(f" {criterion}") for road in found["cuts"]), criterion
    assert found["others"] == {
        "groups": 3,
        "latency": True,
        "allocated": 16,
        "safe": True,
        "synthetic": [64, 3, 8, 8],
        "built": "CifarResNet",
    }


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the core's packages, linked to those of this one."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in closure(["torch", "numpy", "safetensors", "scipy"]):
        link(name, packages)
    (packages / "secateur").symlink_to(ROOT / "src/secateur")
    return folder / "bin/python"


def closure(names: list[str]) -> set[str]:
    """Return distributions with all that they require here, of what is installed."""
    found: set[str] = set()
    while names:
        name = re.split(r"[^\w.-]", names.pop())[0].lower().replace("_", "-")
        if name not in found and name in installed():
            found.add(name)
            required = importlib.metadata.requires(name) or []
            names += [each for each in required if "extra ==" not in each]
    return found | {name for name in installed() if name.startswith(("nvidia-", "cuda-"))}


@cache
def installed() -> set[str]:
    return {each.metadata["Name"].lower().replace("_", "-") for each in importlib.metadata.distributions()}


def link(name: str, packages: Path) -> None:
    """Link the top-level files and folders of a distribution into another environment's packages."""
    distribution = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
        place = packages / top
        if not place.is_symlink() and top != "__pycache__" and not top.endswith(".pth"):
            place.symlink_to(Path(str(distribution.locate_file(top))))


@pytest.mark.venv
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_the_core_works_in_an_environment_of_its_own(bare: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    listed = subprocess.run([bare, "-m", "pydantic"], capture_output=True, text=True, env=environment)
    assert "No module named pydantic" in listed.stderr
    found = told([str(bare), str(SCRIPT)], environment)
    check(found)
    assert all(map(SENTENCE.fullmatch, found["missed"].values()))
