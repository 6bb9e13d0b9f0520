"""Where benchmark results go: one JSON file per benchmark, with what is needed to repeat it.

A benchmark calls `record` once (or after every part of a long run; the file is replaced whole). The table it
passes is what the documentation shows: `python benchmarks/docs.py` puts the tables of all results into docs/.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur import build, load_data
from secateur.core.environment import environment
from secateur.core.files import write_json
from secateur.core.tables import Table
from secateur.data import Dataset
from secateur.models import load_weights

RESULTS = Path(__file__).parent / "results"
CHECKPOINTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
"""Public checkpoints in DATA_ROOT/weights/cifar10; 91.73 and 93.39 % on the 10,000 test images."""


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


def earlier_rows(name: str, settings: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the rows that an earlier call recorded, so that this one continues; of the same `settings`, if given."""
    path = RESULTS / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {"result": {"rows": []}}
    others = settings is not None and found.get("settings") != json.loads(json.dumps(settings))
    return [] if others else list(found["result"]["rows"])


def has(rows: list[dict[str, Any]], **cell: Any) -> bool:
    """Return whether one of the rows is this cell."""
    return any(all(row[key] == value for key, value in cell.items()) for row in rows)


def trained(name: str, data_root: str) -> tuple[nn.Module, Dataset]:
    """Return a ResNet of `CHECKPOINTS` in eval mode and the CIFAR-10 it was trained on."""
    data = load_data("cifar10", data_root, normalize="imagenet")
    model = build(name, num_classes=10, input_shape=data.input_shape)
    load_weights(model, Path(data_root) / "weights/cifar10" / CHECKPOINTS[name])
    return model.eval(), data


def blank(data: Dataset) -> Tensor:
    """Return one image of a data set's shape, all zeros: float32 [1, C, H, W]."""
    assert data.input_shape is not None, f"{data.name} holds no images"
    return torch.zeros(1, *data.input_shape)


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
