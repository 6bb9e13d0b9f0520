"""The scripts in examples/ run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FUSE_HALVES = Path(__file__).parents[2] / "examples" / "fuse_halves.py"


def test_two_networks_become_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ot")
    spec = importlib.util.spec_from_file_location("fuse_halves", FUSE_HALVES)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "HALVES", {**example.HALVES, "epochs": 4})
    monkeypatch.setattr(example, "TOGETHER", {**example.TOGETHER, "epochs": 1})
    monkeypatch.setattr(sys, "argv", ["fuse_halves.py", "--seeds", "1"])
    example.main()
    rows = {
        line[:24].strip(): float(line[24:].split("%")[0]) for line in capsys.readouterr().out.splitlines()[1:]
    }
    assert len(rows) == 8
    assert rows["halved: reconstruct"] > rows["halved: drop"]
    assert rows["halved: fuse"] > rows["untrained"]
