"""Run folders made before a setting existed are what they were: the setting had its default then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from secateur import StoreError
from secateur.runs.run import RUN_FILE, Run
from secateur.steps import STEPS, Context
from secateur.steps.base import identity
from secateur.steps.prune import Prune
from secateur.steps.train import Retrain, Train

COMMON: dict[str, Any] = {"batch_size": 100, "lr": 0.1}
ROAD = (
    Train(model="lenet300", data="digits", train_subset=100, epochs=0, out="dense", **COMMON),
    Prune(run="dense", amount=0.5, evaluate=False, out="cut"),
    Retrain(run="cut", train_subset=100, epochs=0, **COMMON),
)
OTHER: dict[str, Any] = {
    "nesterov": True,
    "rounds": 2,
    "ema": 0.9,
    "scope": "local",
    "precision": "bf16-mixed",
}


def computes(do: str) -> list[str]:
    """The settings of a step that have a default and count when two steps are compared."""
    fields = STEPS[do].model_fields
    return [name for name, field in fields.items() if not field.is_required() and not field.json_schema_extra]


def forget(folder: Path, names: dict[str, list[str]]) -> None:
    """Take settings out of the history, by step, as if they had not been there when it was written."""
    about = json.loads((folder / RUN_FILE).read_text())
    for entry in about["history"]:
        for name in names.get(entry["do"], ()):
            entry["config"].pop(name, None)
    (folder / RUN_FILE).write_text(json.dumps(about))


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders from which every setting that is as it would be by default has been taken."""
    root = tmp_path_factory.mktemp("road")
    for step in ROAD:
        step.perform(Context(root))
    for folder in ("dense", "cut"):
        histories = Run.open(root / folder).history
        assert [entry["do"] for entry in histories] == ["train", "prune", "retrain"][: len(histories)]
        given = {step.do: step.model_fields_set for step in ROAD}
        forget(root / folder, {do: [n for n in computes(do) if n not in given[do]] for do in given})
    return root


@pytest.mark.parametrize("step", ROAD, ids=lambda step: step.do)
def test_an_older_run_is_known_to_be_done(road: Path, step: Any) -> None:
    assert any(word in step.perform(Context(road)).lines[0] for word in ("holds this", "ends with this"))


@pytest.mark.parametrize(
    ("step", "name"),
    [(step, name) for step in ROAD[:2] for name in OTHER if name in type(step).model_fields],
    ids=str,
)
def test_another_value_than_the_default_is_another_run(road: Path, step: Any, name: str) -> None:
    with pytest.raises(StoreError, match="holds another run"):
        step.model_copy(update={name: OTHER[name]}).perform(Context(road))


@pytest.mark.parametrize("do", STEPS)
def test_what_is_left_out_is_the_default(do: str) -> None:
    required = [name for name, field in STEPS[do].model_fields.items() if field.is_required()]
    config = dict.fromkeys(required, "x")
    whole = STEPS[do].model_construct(**config).model_dump(mode="json", warnings=False)
    assert identity(do, config) == identity(do, whole)
    for name in computes(do):
        assert identity(do, {**config, name: ["another"]}) != identity(do, config)
