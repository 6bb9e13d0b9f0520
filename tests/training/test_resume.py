"""Killed at any moment and started again, a training ends with the very bits of an undisturbed one."""

from __future__ import annotations

import random
import shutil
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import Fuse, started, survived, wait_for
from torch import Tensor
from toy_training import BATCH, Net, fresh, half_cut, same, toy

from secateur import run
from secateur.core.errors import StoreError
from secateur.core.files import writing
from secateur.runs.run import Run
from secateur.steps import Context
from secateur.steps.base import Step
from secateur.steps.prune import Prune
from secateur.steps.train import Retrain, Train
from secateur.storage import model_files
from secateur.training import train

PLAIN: dict[str, Any] = {"epochs": 3, "batch_size": BATCH}
CASES: dict[str, dict[str, Any]] = {
    "each epoch": {**PLAIN},
    "mid-epoch": {**PLAIN, "checkpoint_every": "2it"},
    "rarely": {**PLAIN, "checkpoint_every": "3ep"},
    "everything": {
        **PLAIN, "optimizer": "adam", "lr": 0.01, "ema": 0.9, "clip_norm": 0.5, "label_smoothing": 0.1,
        "augment": "crop-flip", "checkpoint_every": "2it", "precision": "bf16-mixed", "warmup": "1ep",
    },
}  # fmt: skip


def trained(folder: Path, settings: dict[str, Any], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    model = fresh(dropout=0.3)
    train(model, toy(), folder=folder, masks=masks, **settings)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("case", CASES)
def test_a_training_killed_at_any_moment_ends_with_the_same_bits(
    case: str, fuse: Fuse, tmp_path: Path
) -> None:
    settings, masks = CASES[case], half_cut(Net()) if case == "everything" else {}
    expected = trained(tmp_path / "undisturbed", settings, masks)
    log = (tmp_path / "undisturbed/metrics.jsonl").read_bytes()
    moments = fuse.passed
    assert moments > 30
    for at in range(1, moments + 1, 3):
        folder = tmp_path / str(at)
        with survived(fuse, at):
            trained(folder, settings, masks)
        assert same(trained(folder, settings, masks), expected), f"killed at moment {at} of {moments}"
        assert (folder / "metrics.jsonl").read_bytes() == log
        assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]


def test_a_training_killed_again_and_again_ends_with_the_same_bits(fuse: Fuse, tmp_path: Path) -> None:
    settings = CASES["everything"]
    expected = trained(tmp_path / "undisturbed", settings, {})
    for _ in range(100):
        with survived(fuse, 13):
            found = trained(tmp_path / "disturbed", settings, {})
            break
    assert same(found, expected)
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("undisturbed", "disturbed")]
    assert logs[0] == logs[1]


def test_a_training_says_where_it_went_on(fuse: Fuse, tmp_path: Path) -> None:
    with survived(fuse, 25):
        trained(tmp_path, CASES["mid-epoch"], {})
    model = fresh(dropout=0.3)
    result = train(model, toy(), folder=tmp_path, **CASES["mid-epoch"])
    assert result.resumed_at in (2, 4, 6, 8)
    assert result.seconds > 0
    assert len(result.rows) == 3


def kept(folder: Path) -> tuple[Any, ...]:
    """What must not depend on interruptions: weights, log, recipe, and results; and that nothing else is left."""
    found = Run.open(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.jsonl", "model.safetensors", "recipe.yaml", "run.json",
    ]  # fmt: skip
    return (
        (folder / "model.safetensors").read_bytes(),
        (folder / "metrics.jsonl").read_bytes(),
        (folder / "recipe.yaml").read_bytes(),
        [(entry["config"], entry["result"], entry["weights"]) for entry in found.history],
    )


STEPS: tuple[Step, ...] = (
    Train(model="lenet300", data="digits", train_subset=100, batch_size=40, epochs=2, out="run"),
    Prune(run="run", out="cut", amount=0.6),
    Retrain(run="cut", epochs=1, batch_size=40, lr=0.1),
    Retrain(run="cut", epochs=1, batch_size=40, lr=0.1, again=True),
    Retrain(run="cut", epochs=2, batch_size=40, lr=0.01, out="other"),
)


@pytest.mark.parametrize("number", [0, 2, 3, 4], ids=["train", "retrain", "again", "retrain-out"])
def test_a_step_killed_at_any_moment_heals_when_it_is_given_again(
    number: int, fuse: Fuse, tmp_path: Path
) -> None:
    """The worst moment is between the new weights and the run.json that tells of them."""
    name = ["run", "cut", "cut", "cut", "other"][number]
    start = tmp_path / "start"
    start.mkdir()
    for step in STEPS[:number]:
        step.perform(Context(start))
    fuse.passed = 0
    STEPS[number].perform(Context(shutil.copytree(start, tmp_path / "undisturbed")))
    moments, expected = fuse.passed, kept(tmp_path / "undisturbed" / name)
    for at in [*range(1, moments - 14, 5), *range(moments - 14, moments + 1)]:
        context = Context(shutil.copytree(start, tmp_path / str(at)))
        with survived(fuse, at):
            STEPS[number].perform(context)
        done = (
            number == 3 and len(Run.open(context.root / "cut").history) == 4
        )  # --again would rightly repeat it
        STEPS[2 if done else number].perform(context)
        assert kept(context.root / name) == expected, f"killed at moment {at} of {moments}"


def test_a_half_made_run_is_not_taken_for_a_finished_one(fuse: Fuse, tmp_path: Path) -> None:
    with survived(fuse, 20):
        STEPS[0].perform(Context(tmp_path))
    with pytest.raises(StoreError, match="unfinished training: give its secateur train command again"):
        Run.open(tmp_path / "run")


def test_other_settings_are_refused_by_name_and_overwrite_starts_over(fuse: Fuse, tmp_path: Path) -> None:
    with survived(fuse, 20):
        STEPS[0].perform(Context(tmp_path))
    other = STEPS[0].model_copy(update={"lr": 0.2, "seed": 5})
    with pytest.raises(StoreError, match=r"\(lr: 0\.05, now 0\.2; seed: 0, now 5\).*--overwrite") as caught:
        other.perform(Context(tmp_path))
    assert "\n" not in str(caught.value)
    elsewhere = STEPS[0].model_copy(update={"checkpoint_every": "1it"})
    elsewhere.perform(Context(tmp_path))
    other.model_copy(update={"overwrite": True}).perform(Context(tmp_path))
    assert Run.open(tmp_path / "run").history[0]["config"]["lr"] == 0.2
    other.model_copy(update={"out": "new"}).perform(Context(tmp_path))
    assert kept(tmp_path / "run")[0] == kept(tmp_path / "new")[0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr": 0.2}, "lr: 0.05, now 0.2"),
        ({"data": toy(46)}, "data: toy"),
        ({"masks": half_cut(Net())}, "masks: 0 cut"),
        ({"model": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))}, "model: Net of"),
    ],
    ids=["settings", "data", "masks", "model"],
)
def test_another_training_is_not_continued(
    change: dict[str, Any], named: str, fuse: Fuse, tmp_path: Path
) -> None:
    with survived(fuse, 20):
        trained(tmp_path, CASES["mid-epoch"], {})
    arguments = {
        "model": fresh(dropout=0.3),
        "data": toy(),
        "folder": tmp_path,
        **CASES["mid-epoch"],
        **change,
    }
    with pytest.raises(StoreError, match="unfinished training with other settings") as caught:
        train(**arguments)
    assert named in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign"])
def test_a_corrupt_checkpoint_is_refused_with_the_way_out(damage: str, fuse: Fuse, tmp_path: Path) -> None:
    with survived(fuse, 20):
        STEPS[0].perform(Context(tmp_path))
    path = tmp_path / "run/checkpoint.safetensors"
    content = path.read_bytes()
    if damage == "foreign":
        model_files.write_tree(path, {"something": torch.ones(2)})
    else:
        path.write_bytes(
            {"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello" * 100}[damage]
        )
    with pytest.raises(StoreError, match=r"delete this checkpoint, or start over with --overwrite") as caught:
        STEPS[0].perform(Context(tmp_path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    STEPS[0].model_copy(update={"overwrite": True}).perform(Context(tmp_path))
    assert len(kept(tmp_path / "run")) == 4


def test_overwriting_a_retraining_in_place_never_loses_the_run(fuse: Fuse, tmp_path: Path) -> None:
    context = Context(tmp_path)
    for step in STEPS[:2]:
        step.perform(context)
    over = STEPS[2].model_copy(update={"overwrite": True})
    for at in (1, 5, 9, 13):
        with survived(fuse, at):
            over.perform(context)
        assert Run.open(tmp_path / "cut").title == "train → prune"
    over.perform(context)
    assert Run.open(tmp_path / "cut").title == "train → prune → retrain"


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    with writing(tmp_path / "checkpoint.safetensors") as part:
        part.write_bytes(b"whole")
    part.write_bytes(b"half")
    (tmp_path / "checkpoint.safetensors").unlink()
    trained(tmp_path, PLAIN, {})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


RECIPE = """
secateur: 1
steps:
- {do: train, model: convnet, data: digits, epochs: 8, optimizer: adam, lr: 0.01, ema: 0.9, augment: crop-flip,
   checkpoint_every: 5it, out: dense}
- {do: prune, run: dense, amount: 0.7, out: cut}
- {do: retrain, run: cut, epochs: 8, checkpoint_every: 3it}
"""


@pytest.mark.slow
def test_a_command_stopped_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL while training, Ctrl-C while retraining in place; then the same command until it is done."""
    stream = random.Random(0)
    folders = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in folders:
        folder.mkdir()
        (folder / "road.yaml").write_text(RECIPE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(folders[0] / "road.yaml", folders[0])
    torch.set_num_threads(threads)
    for name, number in (("dense", signal.SIGKILL), ("cut", signal.SIGINT)):
        process = started("run", "road.yaml", folder=folders[1])
        wait_for((folders[1] / name / "checkpoint.safetensors").exists, process)
        time.sleep(stream.uniform(0, 0.4))
        process.send_signal(number)
        began = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - began < 10
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert errors == "secateur: stopped; give the same command again to continue.\n"
        with pytest.raises(StoreError, match="unfinished") if name == "dense" else nullcontext():
            Run.open(folders[1] / name)
    output, errors = started("run", "road.yaml", folder=folders[1]).communicate(timeout=120)
    assert "continued from iteration" in output
    assert errors == ""
    for name in ("dense", "cut"):
        assert kept(folders[0] / name) == kept(folders[1] / name)
