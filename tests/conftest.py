"""One thread for each test process: they run side by side, and some compare bits between processes."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is first imported

import sys
from dataclasses import dataclass

import pytest

pytest_plugins = ["device_skips", "on_request", "real_data"]


@dataclass
class Ran:
    """What one call of the command line left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def secateur_command(monkeypatch, capsys, tmp_path):
    """Run the command line in-process in a folder of its own."""
    from secateur.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["secateur", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return Ran(stop.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def fuse(monkeypatch):
    """Counts the moments of a training, and ends it at one of them: see `kills`."""
    from kills import watch

    return watch(monkeypatch)
