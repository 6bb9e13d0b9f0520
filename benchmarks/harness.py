"""Where benchmark results go: one JSON file per benchmark, with what is needed to repeat it.

A benchmark calls `record` once (or after every part of a long run; the file is replaced whole). The table it
passes is what the documentation shows: `python benchmarks/docs.py` puts the tables of all results into docs/.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

from secateur.environment import environment
from secateur.files import write_json
from secateur.tables import Table

RESULTS = Path(__file__).parent / "results"


def record(name: str, result: Any, *, table: Table | None = None, **facts: Any) -> Path:
    """Write `result` and the `facts` (command, seed, data, …) to results/NAME.json and return the path."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    content = {"name": name, **facts, "environment": environment(device), "result": result}
    if table is not None:
        content["table"] = table.markdown()
        print(table.markdown())
    path = RESULTS / f"{name}.json"
    write_json(path, content)
    return path


def parser(description: str | None, data: bool = True) -> argparse.ArgumentParser:
    """Return an argument parser with the options benchmarks share."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--threads", type=int, default=None, help="threads torch may use")
    if data:
        root = os.environ.get("SECATEUR_DATA")
        made.add_argument(
            "--data-root", default=root, help="folder of the data sets; SECATEUR_DATA when left out"
        )
    return made
