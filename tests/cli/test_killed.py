"""A step that was killed, by the system and for good, leaves nothing behind once it is taken again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_steps_killed_at_any_write_end_with_the_same_files(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "support" / "killed_roads.py"
    ran = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    moments = dict(line.split() for line in ran.stdout.splitlines() if " killed at " not in line)
    differing = [line for line in ran.stdout.splitlines() if " killed at " in line]
    assert differing == []
    assert set(moments) == {"train", "prune", "retrain", "lottery"}
    assert all(int(number) > 10 for number in moments.values())
