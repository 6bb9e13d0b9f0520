"""Tests marked `needs_data` run where the data is, and are left out, and counted, where it is not.

`@pytest.mark.needs_data("MNIST/raw", "weights/*/resnet20*.th")` names what must be there below the folder that
SECATEUR_DATA names, as globs. Each such test has a companion on small files of the same format, which always runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

LACKING = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LACKING] = 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lacking = [item for item in items if lacks_data(item, os.environ.get("SECATEUR_DATA"))]
    if lacking:
        items[:] = [item for item in items if item not in lacking]
        config.stash[LACKING] = len(lacking)
        config.hook.pytest_deselected(items=lacking)


def lacks_data(item: pytest.Item, root: str | None) -> bool:
    """Whether a test is marked, and something that it needs is not there."""
    marks = list(item.iter_markers("needs_data"))
    globs = [glob for mark in marks for glob in mark.args]
    return bool(marks) and not (root and all(any(Path(root).glob(glob)) for glob in globs))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process of pytest-xdist
        session.config.workeroutput["lacking"] = session.config.stash[LACKING]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LACKING] = getattr(node, "workeroutput", {}).get("lacking", 0)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if count := config.stash[LACKING]:
        tests = "1 test needs" if count == 1 else f"{count} tests need"
        terminalreporter.write_line(f"{tests} real data: set SECATEUR_DATA to the folder that holds it")
