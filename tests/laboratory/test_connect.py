"""The command connect: run folders and anybody's checkpoints, what it tells and writes, mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from folders import snapshot

import secateur
from secateur import connectivity
from secateur.runs.run import Run
from secateur.steps import Connect, Prune, Train
from secateur.steps.connect import sentences
from secateur.steps.recipe import parse_recipe

QUICK = ("--points", "3", "--samples", "40", "--batches", "1")
OPTIONS = {"points": 3, "samples": 40, "batches": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of runs `a` and `b`, their weights as somebody's checkpoints, and cuts of them; must stay."""
    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate("ab"):
        Train(model="convnet", data="digits", epochs=1, batch_size=256, seed=seed, out=name)(root)
        model, _ = Run.open(root / name).load_model()
        state = {f"module.{key}": value for key, value in model.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state}, root / f"{name}.pth")
        Prune(run=name, amount=0.5, evaluate=False, out=f"{name}-cut")(root)
    Train(model="lenet300", data="digits", epochs=1, batch_size=256, out="other")(root)
    return root


@pytest.mark.parametrize("statistics", connectivity.STATISTICS)
def test_it_tells_what_the_library_measures(statistics, secateur_command, trained, tmp_path):
    before = snapshot(trained)
    words = ("connect", trained / "a", trained / "b", *QUICK, "--statistics", statistics)
    ran = secateur_command(*words, "--format", "json", "--out", "between")
    assert (ran.code, ran.err) == (0, "")
    record = json.loads(ran.out)
    (a, _), (b, _) = (Run.open(trained / name).load_model() for name in "ab")
    rows = connectivity.path(a, b, secateur.load_data("digits"), statistics=statistics, **OPTIONS)
    assert record["rows"] == rows
    assert record["barrier"] == connectivity.barrier(rows)
    assert record["rise"] == connectivity.rise(rows)
    assert record["connected"] == connectivity.is_stable(record["barrier"])
    assert record["statistics"].startswith(statistics)
    assert {path.name for path in Path("between").iterdir()} == {"connect.json", "connect.svg", "connect.png"}
    kept = json.loads(Path("between/connect.json").read_text(encoding="utf-8"))
    assert {key: kept[key] for key in record} == record
    assert snapshot(trained) == before


def test_words_for_people(secateur_command, trained):
    shown = secateur_command("connect", trained / "a", trained / "a", *QUICK)
    assert (
        "Error barrier: 0.00 % in training, 0.00 % in the test: linearly connected, the margin is 2 %."
        in shown.out
    )
    assert "Above the worse end error rises by 0.00 % in training, 0.00 % in the test." in shown.out
    assert "Statistics of normalisations: estimated on 1 training batches of 128." in shown.out
    table = secateur_command("connect", trained / "a", trained / "b", *QUICK, "--format", "csv").out
    latex = secateur_command("connect", trained / "a", trained / "b", *QUICK, "--format", "latex").out
    assert latex.startswith(r"\begin{tabular}{rrrrr}")
    assert latex.isascii()
    assert table.splitlines()[0] == "alpha,train_error,test_error,train_loss,test_loss"
    assert len(table.splitlines()) == 4


@pytest.mark.parametrize(
    ("middle", "verdict"),
    [
        (0.05, "but only since one end is so much worse"),
        (0.11, "but only since one end is so much worse"),
        (0.13, "not linearly connected"),
    ],
)
def test_a_worse_end_is_no_barrier(middle, verdict):
    rows = [
        {"alpha": alpha}
        | {f"{split}_{what}": value for split in ("train", "test") for what in ("error", "loss")}
        for alpha, value in ((0, 0.0), (0.5, middle), (1, 0.1))
    ]
    told = sentences(connectivity.barrier(rows), connectivity.rise(rows))
    assert verdict in told[0]
    assert f"rises by {100 * max(0, middle - 0.1):.2f} % in training" in told[1]


def test_checkpoints_of_anybody_are_the_same_models(secateur_command, trained):
    named = ("--model", "convnet", "--data", "digits")
    found = [
        json.loads(secateur_command("connect", *words, *QUICK, "--format", "json").out)["rows"]
        for words in (
            (trained / "a", trained / "b"),
            (trained / "a.pth", trained / "b.pth", *named),
            (trained / "a", trained / "b.pth", "--model", "convnet"),
        )
    ]
    assert found[0] == found[1] == found[2]


def test_tickets_of_one_mask_connect(trained, tmp_path):
    _, masks = Run.open(trained / "a-cut").load_model()
    other, _ = Run.open(trained / "b").load_model()
    masks.apply_(other)
    run = Run.open(trained / "a-cut")
    run.record(other, masks, {"do": "prune", "config": run.history[-1]["config"]}, {}, 0.0, tmp_path / "twin")
    assert len(Connect(a=str(trained / "a-cut"), b=str(tmp_path / "twin"), **OPTIONS)().record["rows"]) == 3
    assert len(Connect(a=str(trained / "a-cut"), b=str(trained / "b"), **OPTIONS)().record["rows"]) == 3


def test_it_is_a_step_of_a_recipe(trained):
    (step,) = parse_recipe({"secateur": 1, "steps": [{"do": "connect", "a": "x", "b": "y", "points": 5}]})
    assert (step.a, step.b, step.points) == ("x", "y", 5)


MISTAKES = {
    "no such run": (["RUNS/a", "RUNS/c"], "There is no run folder"),
    "no such file": (["RUNS/a.pth", "RUNS/c.pth", "--model", "convnet", "--data", "digits"], "no such file"),
    "a file of what": (["RUNS/a.pth", "RUNS/b.pth"], "say what it is of with --model and --data"),
    "a file without data": (["RUNS/a.pth", "RUNS/b.pth", "--model", "convnet"], "--data"),
    "no checkpoint": (["bad.pth", "RUNS/b.pth", "--model", "convnet", "--data", "digits"], "bad.pth"),
    "no run": (["empty", "RUNS/b"], "empty is no run folder"),
    "a model for runs": (["RUNS/a", "RUNS/b", "--model", "convnet"], "leave --model out"),
    "another architecture": (["RUNS/a", "RUNS/other"], "one architecture"),
    "another model's file": (
        ["RUNS/a.pth", "RUNS/b.pth", "--model", "lenet300", "--data", "digits"],
        "a.pth",
    ),
    "other masks": (["RUNS/a-cut", "RUNS/b-cut"], "different masks"),
    "other data": (["RUNS/a", "RUNS/other-data"], "name what to measure on with --data"),
    "two points": (["RUNS/a", "RUNS/b", "--points", "2"], "--points"),
    "statistics with a typo": (["RUNS/a", "RUNS/b", "--statistics", "estimate"], "estimated"),
    "augmentation with a typo": (["RUNS/a", "RUNS/b", "--augment", "flop"], "flip"),
    "no such device": (["RUNS/a", "RUNS/b", "--device", "cpuu"], "cpuu"),
    "no such data": (["RUNS/a.pth", "RUNS/b.pth", "--model", "convnet", "--data", "digit"], "digits"),
    "no such model": (["RUNS/a.pth", "RUNS/b.pth", "--model", "convnett", "--data", "digits"], "convnet"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence(mistake, secateur_command, trained, tmp_path):
    words, mentioned = MISTAKES[mistake]
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    (tmp_path / "empty").mkdir()
    run = Run.open(trained / "a")
    if mistake == "other data":
        folder = tmp_path / "other-data"
        model, masks = run.load_model()
        run.record(model, masks, {"do": "train", "config": {}}, {}, 0.0, folder)
        about = json.loads((folder / "run.json").read_text())
        about["data"]["name"] = "mnist"
        (folder / "run.json").write_text(json.dumps(about))
        words = [words[0], str(folder), *words[2:]]
    ran = secateur_command("connect", *[word.replace("RUNS", str(trained)) for word in words], "--out", "x")
    assert (ran.code, ran.out) == (2, "")
    assert mentioned in ran.err
    assert re.fullmatch(r"secateur: [^\n]+\n", ran.err)
    assert not (tmp_path / "x").exists()
