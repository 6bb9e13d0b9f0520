"""On continuous integration (CI=true) a test may be skipped for want of a device, and for nothing else.

There everything else can be had: the extras, a browser, the tools of the system. So a skip means that something was
not installed, or that a test gave up, and it fails with its reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator

import pytest

DEVICE = re.compile(r"needs \w+ (GPU|accelerator)")


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why something was skipped."""
    place = report.longrepr
    return str(place[2] if isinstance(place, tuple) else place).removeprefix("Skipped: ")


def forbidden(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Whether a test, or a whole file, was skipped that may not be."""
    skipped = report.skipped and not hasattr(report, "wasxfail")
    return os.environ.get("CI") == "true" and skipped and not DEVICE.match(reason_of(report))


def failing(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a failure of a skip that may not be."""
    if forbidden(report):
        report.longrepr = (
            f"{report.nodeid} was skipped ({reason_of(report)}): on continuous integration only a missing "
            "device is a reason. Install what is missing, or say what the test asserts instead."
        )
        report.outcome = "failed"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    failing(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    failing(report)
    return report
