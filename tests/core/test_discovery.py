"""Modules of a package are found by being there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from secateur.core.discovery import import_modules


def test_every_module_of_a_package_is_imported_in_alphabetical_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from secateur.core.discovery import import_modules\n"
        "sold = []\n"
        "def sell(name): sold.append(name)\n"
        "import_modules(__name__, __path__)\n"
    )
    for name in ("pears", "apples", "_plums"):
        (folder / f"{name}.py").write_text(f"from shop import sell\nsell('{name}')\n")
    (folder / "notes.txt").write_text("no module")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        import shop  # type: ignore[import-not-found]

        assert shop.sold == ["_plums", "apples", "pears"]
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
            del sys.modules[name]


def test_a_module_that_can_not_be_imported_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/__init__.py").touch()
    (tmp_path / "torn/part.py").write_text("import nowhere.at.all")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        import_modules("torn", [str(tmp_path / "torn")])
