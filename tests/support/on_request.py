"""Tests marked `package` build and install the package, which takes minutes: they run with `-m package` alone."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "package" in config.option.markexpr:
        return
    others = [item for item in items if item.get_closest_marker("package")]
    if others:
        items[:] = [item for item in items if item not in others]
        config.hook.pytest_deselected(items=others)
