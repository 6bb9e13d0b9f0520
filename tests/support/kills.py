"""Ends a piece of work at one moment after the other: within this process, or a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from secateur.runs import run as run_folder
from secateur.runs.run import Run
from secateur.storage import model_files
from secateur.training import loop
from secateur.training.checkpoint import Checkpoint
from secateur.training.journal import Journal


class Kill(BaseException):
    """Ends a process, as far as a test can."""


class Fuse:
    """Counts the moments a run passes, and kills it at the one numbered `at`."""

    def __init__(self) -> None:
        self.passed, self.at = 0, -1

    def moment(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            raise Kill

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` with a moment before and one after it."""

        def watched(*args: Any, **options: Any) -> Any:
            self.moment()
            result = function(*args, **options)
            self.moment()
            return result

        return watched


def watch(monkeypatch: pytest.MonkeyPatch) -> Fuse:
    """Set moments around every forward pass, evaluation, row of the log, checkpoint, and file put in place."""
    fuse = Fuse()
    for owner, name in (
        (loop, "logits_of"),
        (loop, "evaluate"),
        (Journal, "write"),
        (Checkpoint, "write"),
        (Checkpoint, "remove"),
        (model_files, "save"),
        (run_folder, "write_text"),
        (Run, "write"),
    ):
        monkeypatch.setattr(owner, name, fuse.around(getattr(owner, name)))
    place = os.replace

    def half_done(source: Any, target: Any) -> None:
        fuse.moment()  # written, not in place yet
        place(source, target)

    monkeypatch.setattr(os, "replace", half_done)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # waiting for the disk is not what is tested
    return fuse


@contextmanager
def survived(fuse: Fuse, at: int) -> Iterator[None]:
    fuse.passed, fuse.at = 0, at
    try:
        yield
    except Kill:
        pass
    finally:
        fuse.at = -1


def started(*words: str, folder: Path) -> subprocess.Popen[str]:
    """Start the command line in `folder`, in a process of its own that can be killed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "secateur", *words],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
