"""Every value of a run folder's JSON replaced by hostile ones: an error of ours, or a run that can be shown."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from secateur.core.errors import SecateurError
from secateur.report import comparison, sections, words
from secateur.report.content import ReportContent, RunView
from secateur.runs.run import Run

HOSTILE: list[Any] = [None, True, "x\x1b[1m", -1, 10**300, [], {"x": None}, ["x"]]
TRAINED = {
    "do": "train", "run": "dense", "config": {"model": "lenet5", "data": "digits", "epochs": 1, "model_args": {}},
    "result": {"loss": 2.1, "top1": 0.16, "top5": 0.79}, "seconds": 0.6, "command": "secateur train",
    "environment": {"cores": 2}, "weights": "f1",
}  # fmt: skip
CUT = {
    "do": "prune", "run": "cut", "config": {"amount": 0.5, "criterion": "magnitude", "granularity": "weight"},
    "result": {"requested": 0.5, "achieved": 0.5, "pruned": 5, "prunable": 10, "top1": 0.1, "loss": 2.2},
    "seconds": 0.1, "weights": "f2",
}  # fmt: skip
SMALL = {
    "do": "prune", "run": "small", "config": {"criterion": "magnitude", "granularity": "channel"},
    "result": {
        "requested": 0.5, "achieved": 0.5, "parameters": [10, 5], "macs": [10, 5], "top1": 0.1, "loss": 2.2,
        "groups": [{"name": "a", "units": 2, "kept": 1, "through": "a"}],
    },
    "seconds": 0.1, "weights": "f2",
}  # fmt: skip
RUN_JSON = {
    "format": 1,
    "model": {"name": "lenet5", "args": {}},
    "data": {"name": "digits", "root": None, "subset": [None, None], "download": True},
    "input_shape": [1, 8, 8],
    "num_classes": 10,
}
ROW = {
    "step": 0,
    "do": "train",
    "epoch": 1,
    "iteration": 23,
    "lr": 0.1,
    "train_loss": 2.1,
    "loss": 2.1,
    "top1": 0.16,
}
SAFE_RATE = {
    "weights": "f1", "optimum": 0.5, "optimum_cosine": 0.9, "safe": 0.4, "safe_cosine": 0.95, "modifier": 0.8,
    "kurtosis_of_kurtoses": 3.0, "parameters": 10, "notes": ["n"], "curve": [{"rate": 0.0, "cosine": 1.0}],
    "kurtoses": [{"name": "a", "kurtosis": 3.0, "size": 5}], "excluded": [{"name": "b", "reason": "small"}],
}  # fmt: skip
HISTORIES = {"train": [TRAINED], "cut": [TRAINED, CUT], "small": [TRAINED, SMALL]}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every part of a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def changed(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the value with every part of it replaced by each hostile one, and left out."""
    for path in places(value):
        for number, hostile in enumerate([*HOSTILE, None]):
            whole = {"root": copy.deepcopy(value)}
            parent: Any = whole
            for key in ("root", *path)[:-1]:
                parent = parent[key]
            last = ("root", *path)[-1]
            if number == len(HOSTILE) and isinstance(parent, dict):
                del parent[last]
            else:
                parent[last] = hostile
            yield f"{path} → {str(hostile)[:20]}", whole.get("root")


def show(run: Run) -> None:
    """Compute all that a report says of a run without its tensors."""
    view = RunView(run.name, run.name, run.history, run.journal(), safe_rate=run.safe_rate())
    seen = ReportContent("report", runs=[view])
    for table in (comparison.results([view]), comparison.costs([view]), comparison.smaller([view])):
        table.cells()
    words.summary([view])
    for found in sections.safe_rates(seen):
        found.table.cells()
    sections.accuracy_rows([view])
    for make in (sections.groups, sections.training):
        for figure in make(seen):
            figure.table.cells()


def check(folder: Path, file: str, text: str, case: str) -> None:
    (folder / file).write_text(text)
    sentences: list[str] = []
    try:
        show(Run.open(folder))
    except SecateurError as error:
        sentences.append(str(error))
    except Exception as error:
        raise AssertionError(f"{file} {case}: {type(error).__name__}: {error}") from error
    assert not any("\n" in sentence for sentence in sentences), case


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {
        "run.json": {**RUN_JSON, "history": [TRAINED]},
        "safe_rate.json": SAFE_RATE,
    }.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "metrics.jsonl").write_text(json.dumps(ROW) + "\n")
    show(Run.open(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", HISTORIES)
def test_run_json(folder: Path, name: str) -> None:
    for case, content in changed({**RUN_JSON, "history": HISTORIES[name]}):
        if name == "train" or "history" in case:
            check(folder, "run.json", json.dumps(content), case)


def test_metrics(folder: Path) -> None:
    for case, content in changed(ROW):
        check(folder, "metrics.jsonl", json.dumps(content) + "\n", case)


def test_safe_rate(folder: Path) -> None:
    for case, content in changed(SAFE_RATE):
        check(folder, "safe_rate.json", json.dumps(content), case)


@pytest.mark.parametrize("file", ["run.json", "metrics.jsonl", "safe_rate.json"])
@pytest.mark.parametrize(
    "text", ["", "\n", "NaN\n", "[1e999]\n", "1" * 400 + "\n", "[" * 5000 + "\n", '{"a": 1\n', "\0\n"]
)
def test_files_that_are_no_json(folder: Path, file: str, text: str) -> None:
    check(folder, file, text, repr(text[:20]))


@pytest.mark.parametrize("file", ["run.json", "metrics.jsonl", "safe_rate.json"])
def test_bytes_and_folders_in_place_of_files(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"\xd4\xff\n")
    with pytest.raises(SecateurError, match="not a UTF-8 text file"):
        show(Run.open(folder))
    (folder / file).unlink()
    (folder / file).mkdir()
    with pytest.raises(SecateurError, match="it is a folder"):
        show(Run.open(folder))
