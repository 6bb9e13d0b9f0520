"""`import secateur` is light: names, packages and modules are imported when they are asked for."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import core_road
import pytest

import secateur
from secateur.core.lazy import LazyPackage, make_lazy

SOURCE = Path(secateur.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if path.parent != SOURCE
)
SAME_NAME = {
    "analysis.kurtosis",
    "analysis.safe_rate",
    "connectivity.path",
    "data.held",
    "lottery.order",
    "lottery.plan",
    "lottery.subnetwork",
    "shrink.apply",
    "study.conduct",
}
"""Modules of which the package offers the function of that name."""
HEAVY = {*core_road.ABSENT, "scipy", "sympy", "lightning", "transformers", "jinja2", "pandas", "triton"}
CORE = (
    "prune",
    "analyze",
    "measure",
    "save",
    "load",
    "load_masks",
    "Masks",
    "Pruned",
    "score",
    "safe_rate",
    "build",
    "load_data",
    "export",
)


def fresh(code: str) -> Any:
    """Run code in a new process; return what it prints, read as JSON."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    ran = subprocess.run(
        [sys.executable, "-c", f"import json, os, sys\n{code}"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_the_package_alone_loads_nothing() -> None:
    code = "import secateur; print(json.dumps([list(sys.modules), os.environ['GOMP_SPINCOUNT']]))"
    loaded, spin = fresh(code)
    assert {name.partition(".")[0] for name in loaded} & {"torch", "numpy", *HEAVY} == set()
    ours = {name for name in loaded if name.startswith("secateur.")}
    assert ours == {"secateur.core", "secateur.core.lazy", "secateur.core.threads"}
    assert spin == "1000"


def test_the_core_loads_torch_and_little_more() -> None:
    code = "import torch; before = set(sys.modules); import secateur\n"
    code += f"for name in {CORE}: getattr(secateur, name)\n"
    code += "print(json.dumps(sorted(set(sys.modules) - before)))"
    loaded = fresh(code)
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()
    packages = {name.split(".")[1] for name in loaded if name.startswith("secateur.")}
    assert packages & {"steps", "report", "training", "runs", "study", "cli", "lottery", "methods"} == set()


def test_functions_are_not_hidden_by_packages_of_their_names() -> None:
    code = "import secateur.export.formats, secateur.measure.cost; from secateur import export, measure\n"
    code += "before = [callable(secateur.export), callable(secateur.measure)]; import secateur.measure\n"
    code += "import secateur.export; from secateur.measure import size\n"
    code += (
        "print(json.dumps([*before, callable(secateur.export), callable(secateur.measure), callable(size)]))"
    )
    assert fresh(code) == [True] * 5


def test_everything_pickles_into_a_process_that_has_imported_nothing() -> None:
    things = [secateur.prune, secateur.TrainConfig, secateur.Masks, secateur.measure]
    code = f"import pickle; things = pickle.loads({pickle.dumps(things)!r}); import secateur\n"
    code += "print(json.dumps([thing is getattr(secateur, thing.__name__) for thing in things]))"
    assert fresh(code) == [True] * len(things)


def test_what_type_checkers_see_is_what_there_is() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module != "secateur"
        for alias in node.names
    }
    homes: dict[str, str] = vars(secateur)["_homes"]
    assert seen == {name: home for name, home in homes.items() if name != "__version__"}
    assert sorted(seen) == sorted(secateur.__all__)


@pytest.mark.parametrize("name", secateur.__all__)
def test_public_names_are_no_modules(name: str) -> None:
    assert not isinstance(getattr(secateur, name), ModuleType)


def test_a_star_imports_all_public_names() -> None:
    names: dict[str, Any] = {}
    exec("from secateur import *", names)
    assert set(secateur.__all__) <= names.keys()


def test_names_are_listed() -> None:
    packages = {module.partition(".")[0] for module in MODULES}
    assert set(dir(secateur)) == {*secateur.__all__, "__version__", *packages}
    assert "seeds" in dir(secateur.core)


def test_modules_are_attributes() -> None:
    paths = [each for each in MODULES if each.partition(".")[0] not in secateur.__all__]
    code = "import secateur; from functools import reduce\n"
    code += f"found = [reduce(getattr, path.split('.'), secateur) for path in {paths[::-1]}]\n"
    code += "print(json.dumps([type(each).__name__ for each in found]))"
    found = dict(zip(paths[::-1], fresh(code), strict=True))
    assert {path for path, kind in found.items() if kind == "function"} <= SAME_NAME
    assert set(found.values()) <= {"module", "LazyPackage", "function"}


@pytest.mark.parametrize("name", ["prunes", "_private", "__wrapped__"])
def test_what_is_not_there_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'secateur' has no attribute '{name}'"):
        getattr(secateur, name)
    with pytest.raises(ImportError):
        exec(f"from secateur import {name}")


def test_a_module_that_lacks_a_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lazily").mkdir()
    (tmp_path / "lazily/__init__.py").write_text("")
    (tmp_path / "lazily/wanting.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    import lazily  # type: ignore[import-not-found]

    make_lazy("lazily", {"root": "math:sqrt"})
    assert isinstance(lazily, LazyPackage)
    assert (lazily.root(4), dir(lazily)) == (2.0, ["root", "wanting"])
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        _ = lazily.wanting
