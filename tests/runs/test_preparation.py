"""The preparation of a run's images is stored, and later steps repeat it although the folder has changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from secateur import steps
from secateur.core.errors import DataError
from secateur.runs.run import Run
from secateur.storage import model_files


def draw(folder: Path, number: int, base: int, side: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(base + number).normal(base, 60, (side, side, 3))
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    for split in ("train", "test"):
        for name, base in (("a", 70), ("b", 100)):
            for number in range(6):
                draw(tmp_path / "images" / split / name, number, base)
    steps.Train(model="convnet", data=f"folder:{tmp_path / 'images'}", epochs=0, out="run")(tmp_path)
    return Run.open(tmp_path / "run")


def test_what_is_stored(run: Run) -> None:
    data = run.load_data()
    about = json.loads((run.folder / "run.json").read_text())["preparation"]
    assert about == {
        "mean": list(data.mean or ()),
        "std": list(data.std or ()),
        "size": [8, 8],
        "classes": ["a", "b"],
    }
    assert model_files.read(run.folder / "model.safetensors").about["preparation"] == about


def test_new_files_change_no_later_step(run: Run, tmp_path: Path) -> None:
    before = run.load_data()
    steps.Prune(run="run", amount=0.5, out="cut", evaluate=False)(tmp_path)
    for number in range(20, 60):
        draw(tmp_path / "images/train/a", number, 250, side=16)
    for folder in ("run", "cut"):
        after = Run.open(tmp_path / folder).load_data()
        assert (after.mean, after.std, after.input_shape) == (before.mean, before.std, before.input_shape)
        assert len(after.train) == len(before.train) + 40
        same = [after.normalised(after.test.inputs), before.normalised(before.test.inputs)]
        assert torch.equal(*same)
    assert run.load_data(normalize="none").mean == (0.0, 0.0, 0.0)


def test_other_classes_are_refused(run: Run, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "images" / split / "b").rename(tmp_path / "images" / split / "c")
    with pytest.raises(DataError, match=r"\(c are new; b are gone\): bring these back, or train anew\.$"):
        run.load_data()
    for split in ("train", "test"):
        (tmp_path / "images" / split / "c").rename(tmp_path / "images" / split / "b")
    draw(tmp_path / "images/train/zebra", 0, 50)
    with pytest.raises(DataError, match="zebra are new"):
        run.load_data()


def test_runs_without_it_are_read(run: Run) -> None:
    about = json.loads((run.folder / "run.json").read_text())
    del about["preparation"]
    (run.folder / "run.json").write_text(json.dumps(about))
    assert Run.open(run.folder).load_data().input_shape == (3, 8, 8)


def test_an_exported_model_holds_it(run: Run, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    steps.Export(run="run", out="model.onnx")(tmp_path)
    held = runtime.InferenceSession(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    assert {name: json.loads(held[name]) for name in ("mean", "std", "size", "classes")} == run.preparation
