"""The command line: the road on real input, and every foreseeable mistake answered in one sentence."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import pytest
import torch
from folders import snapshot
from PIL import Image
from torch import nn

import secateur
from secateur import steps
from secateur.core.files import locked

QUICK = ["--model", "convnet", "--data", "digits", "--epochs", "1", "--batch-size", "256"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one trained run, `dense`, and one pruned from it, `cut`; tests must not change them."""
    root = tmp_path_factory.mktemp("runs")
    for words in (["train", *QUICK, "--out", "dense"], ["prune", "dense", "--amount", "0.5", "--out", "cut"]):
        subprocess.run([sys.executable, "-m", "secateur", *words], cwd=root, check=True)
    return root


def test_the_whole_road(secateur_command, tmp_path):
    run = secateur_command
    assert run("train", *QUICK, "--out", "runs/dense").code == 0
    inspected = json.loads(run("inspect", "runs/dense", "--format", "json").out)
    assert inspected["parameters"] == sum(layer["parameters"] or 0 for layer in inspected["layers"])
    rate = json.loads(run("safe-rate", "runs/dense", "--format", "json").out)
    assert 0 < rate["safe"] <= rate["optimum"] < 1
    for name in ("safe_rate.png", "safe_rate.svg", "safe_rate.json", "kurtosis.png", "kurtosis.svg"):
        assert (tmp_path / "runs/dense" / name).stat().st_size > 1000
    cut = run(
        "prune", "runs/dense", "--amount", "0.8", "--norm", "l1", "--scope", "global", "--out", "runs/p80"
    )
    assert (cut.code, cut.err) == (0, "")
    assert "80.00 %" in cut.out
    assert run("retrain", "runs/p80", "--epochs", "1", "--lr", "1e-2").code == 0
    masks = secateur.load_masks("runs/p80/model.safetensors")
    weights = dict(secateur.load("runs/p80/model.safetensors").named_parameters())
    assert masks.pruned == round(0.8 * masks.total)
    assert all(bool((weights[name][~mask] == 0).all()) for name, mask in masks.items())
    shown = run("inspect", "runs/p80", "--format", "json")
    inspected = json.loads(shown.out)
    assert inspected["weight_sparsity"] == masks.pruned / masks.total > inspected["sparsity"]
    sparsities = {f"{layer['layer']}.weight": layer["weight_sparsity"] for layer in inspected["layers"]}
    for name, mask in masks.items():
        assert sparsities[name] == pytest.approx(1 - int(mask.sum()) / mask.numel())
    assert f"; of the weights {100 * inspected['weight_sparsity']:.2f} %)" in run("inspect", "runs/p80").out
    metrics = json.loads(run("eval", "runs/p80", "--format", "json").out)
    history = json.loads((tmp_path / "runs/p80/run.json").read_text())["history"]
    assert [entry["do"] for entry in history] == ["train", "prune", "retrain"]
    assert metrics["top1"] == pytest.approx(history[-1]["result"]["top1"])
    rows = json.loads(run("compare", "runs/*", "--no-latency", "--format", "json").out)
    assert [row["label"] for row in rows] == ["dense", "p80"]
    assert rows[0]["parameters"] == rows[1]["parameters"] > rows[1]["nonzero"]
    reported = run("report", "runs/dense", "runs/p80", "--no-latency", "--out", "report.html")
    assert reported.code == 0
    assert "p80" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_recipe_makes_the_same_run_again(secateur_command, trained, tmp_path):
    assert secateur_command("run", trained / "cut/recipe.yaml").code == 0
    for name in ("dense", "cut"):
        assert (tmp_path / name / "model.safetensors").read_bytes() == (
            trained / name / "model.safetensors"
        ).read_bytes()


LISTED = {"models": "lenet5", "datasets": "digits", "criteria": "magnitude", "methods": "rigl"}


@pytest.mark.parametrize("format", ["text", "json", "csv", "markdown"])
@pytest.mark.parametrize("command", LISTED)
def test_lists(secateur_command, command, format):
    listed = secateur_command(command, "--format", format)
    assert listed.code == 0
    assert LISTED[command] in listed.out


def test_a_second_call_does_nothing_and_says_so(secateur_command, trained):
    before = (trained / "cut/run.json").stat().st_mtime_ns
    again = secateur_command("prune", trained / "dense", "--amount", "0.5", "--out", trained / "cut")
    assert again.code == 0
    assert "already" in again.out
    assert (trained / "cut/run.json").stat().st_mtime_ns == before


def test_the_version(secateur_command):
    shown = secateur_command("--version")
    assert (shown.code, shown.out) == (0, f"secateur {secateur.__version__}\n")


def test_a_recipe_is_taken_once(secateur_command, tmp_path):
    """Whatever later steps did to a folder, a step done already is known again."""
    (tmp_path / "recipe.yaml").write_text(
        """
        secateur: 1
        steps:
        - {do: train, model: convnet, data: digits, epochs: 1, batch_size: 256, out: dense}
        - {do: prune, run: dense, amount: 0.5, out: cut}
        - {do: retrain, run: dense, lr: 0.01, train_subset: 300}
        - {do: retrain, run: dense, lr: 0.001, train_subset: 300}
        - {do: retrain, run: dense, lr: 0.001, train_subset: 300}
        """
    )
    assert secateur_command("run", "recipe.yaml").code == 0
    before = snapshot(tmp_path)
    again = secateur_command("run", "recipe.yaml")
    assert again.code == 0
    assert all("already" in line for line in again.out.splitlines())
    assert snapshot(tmp_path) == before
    history = json.loads((tmp_path / "dense/run.json").read_text())["history"]
    assert [entry["do"] for entry in history] == ["train", "retrain", "retrain", "retrain"]


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        ("granularity: chanel, amount: 0.5", "no granularity 'chanel'"),
        ("scope: globall, amount: 0.5", "did you mean global"),
        ("scope: erk, granularity: channel, amount: 0.5", "no scope for units named 'erk'"),
        ("scope: erk, granularity: '2:4'", "takes the same of every group"),
        ("include: [weihts], amount: 0.5", "no role 'weihts'"),
        ("schedule: lin, amount: 0.5", "did you mean linear"),
        ("amount: safe, granularity: channel", "The safe rate is one of weights"),
        ("granularity: weight", "Say how much to remove"),
        ("granularity: head, amount: 0.5, budget: {macs: 0.5}", "not both"),
        ("granularity: channel, budget: {mac: 0.5}", "did you mean macs"),
        ("granularity: channel, amount: 0.5, reduction: men", "did you mean mean"),
        ("granularity: channel, amount: 0.5, round_to: 0", "round_to"),
        ("amount: 0.5, norm: 3, criterion: taylor", "norm"),
        ("amount: 0.5, max_amount: 0.5", "max_amount has no meaning"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused_before_the_training(secateur_command, tmp_path, cut, reason):
    train = "{do: train, model: lenet5, data: digits, epochs: 1, out: dense}"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"secateur: 1\nsteps: [{train}, {{do: prune, run: dense, out: cut, {cut}}}]")
    told = secateur_command("run", recipe.name)
    assert (told.code, told.out) == (2, "")
    assert reason in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_step_that_is_done_already_gives_the_same_record(tmp_path):
    model = {"model": "lenet300", "data": "digits"}
    for done in (
        steps.Train(**model, epochs=1, batch_size=256, out="dense"),
        steps.Import(**model, out="imported"),
        steps.Prune(run="dense", amount=0.5, out="cut"),
        steps.Ticket(run="dense", out="ticket"),
        steps.Retrain(run="cut", out="on", batch_size=256),
        steps.Retrain(run="cut", batch_size=256),
    ):
        assert done(tmp_path).record == done(tmp_path).record


def test_a_recipe_does_not_build_on_what_has_gone_on(secateur_command, tmp_path):
    steps = "secateur: 1\nsteps:\n- {do: train, model: convnet, data: digits, epochs: 1, batch_size: 256, out: dense}\n"
    (tmp_path / "recipe.yaml").write_text(steps)
    assert secateur_command("run", "recipe.yaml").code == 0
    assert secateur_command("retrain", "dense", "--train-subset", "300").code == 0
    (tmp_path / "recipe.yaml").write_text(steps + "- {do: prune, run: dense, amount: 0.5, out: cut}\n")
    refused = secateur_command("run", "recipe.yaml")
    assert refused.code == 2
    assert "gone on" in refused.err
    assert not (tmp_path / "cut").exists()


@pytest.mark.parametrize("do", ["train", "import"])
def test_a_recipe_runs_no_code_unasked(secateur_command, tmp_path, do):
    (tmp_path / f"mine_{do}.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    (tmp_path / "recipe.yaml").write_text(
        f"secateur: 1\nsteps:\n- {{do: {do}, model: 'mine_{do}:make', data: digits, out: x}}\n"
    )
    refused = secateur_command("run", "recipe.yaml")
    assert refused.code == 2
    assert "--trust" in refused.err
    assert not (tmp_path / "ran").exists()
    secateur_command("run", "recipe.yaml", "--trust")
    assert (tmp_path / "ran").exists()


def test_one_training_at_a_time_in_a_folder(secateur_command, tmp_path):
    with locked(tmp_path / "dense"):
        refused = secateur_command("train", *QUICK, "--out", "dense")
    assert refused.code == 2
    assert "Another process" in refused.err
    assert secateur_command("train", *QUICK, "--out", "dense").code == 0
    assert not (tmp_path / "dense/.lock").exists()


def test_a_full_output_gets_a_sentence(trained):
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "secateur", "inspect", str(trained / "dense")]
        ran = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith("secateur: cannot write the output")
    assert len(ran.stderr.strip().splitlines()) == 1


def test_an_image_folder_is_found_from_anywhere(secateur_command, tmp_path, monkeypatch):
    for split in ("train", "test"):
        for label in ("light", "dark"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (16, 16), (label == "light" and "white") or "black").save(
                    folder / f"{number}.png"
                )
    train = ["train", "--model", "convnet", "--data", "folder:photos", "--epochs", "1", "--out", "run"]
    assert secateur_command(*train).code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert secateur_command("eval", "../run").code == 0


def test_files_are_readable_by_others(trained):
    modes = {path.name: path.stat().st_mode & 0o777 for path in (trained / "dense").iterdir()}
    assert set(modes.values()) == {0o666 & ~current_umask()}, modes


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_every_command_has_help(secateur_command):
    for command in (
        "train",
        "import",
        "inspect",
        "safe-rate",
        "prune",
        "retrain",
        "eval",
        "compare",
        "report",
        "run",
        "demo",
    ):
        shown = secateur_command(command, "--help")
        assert shown.code == 0
        assert f"secateur {command}" in shown.out


MISTAKES = {
    "amount below 0": (["prune", "RUNS/dense", "--amount", "-0.1", "--out", "x"], "between 0 and 1"),
    "amount above 1": (["prune", "RUNS/dense", "--amount", "1.7", "--out", "x"], "1.7"),
    "amount NaN": (["prune", "RUNS/dense", "--amount", "NaN", "--out", "x"], "nan"),
    "amount a word": (["prune", "RUNS/dense", "--amount", "lots", "--out", "x"], "lots"),
    "no amount": (["prune", "RUNS/dense", "--out", "x"], "how much"),
    "less than is cut": (["prune", "RUNS/cut", "--amount", "0.2", "--out", "x"], "already"),
    "unknown model": (["train", "--model", "lenet6", "--data", "digits", "--out", "x"], "lenet5"),
    "unknown data": (["train", "--model", "lenet5", "--data", "mnits", "--out", "x"], "mnist"),
    "unknown layer": (["prune", "RUNS/dense", "--amount", "0.5", "--layers", "conv9", "--out", "x"], "conv9"),
    "unknown kept layer": (
        ["prune", "RUNS/dense", "--amount", "0.5", "--keep", "stem*", "--out", "x"],
        "stem",
    ),
    "unknown criterion": (
        ["prune", "RUNS/dense", "--amount", "0.5", "--criterion", "magic", "--out", "x"],
        "magnitude",
    ),
    "unknown norm": (["prune", "RUNS/dense", "--amount", "0.5", "--norm", "l7", "--out", "x"], "l7"),
    "unknown scope": (["prune", "RUNS/dense", "--amount", "0.5", "--scope", "glbal", "--out", "x"], "global"),
    "unknown granularity": (["prune", "RUNS/dense", "--granularity", "wieght", "--out", "x"], "wieght"),
    "unknown role": (
        ["prune", "RUNS/dense", "--amount", "0.5", "--include", "muscles", "--out", "x"],
        "muscles",
    ),
    "n:m with n > m": (["prune", "RUNS/dense", "--granularity", "4:2", "--out", "x"], "4:2"),
    "scope beside n:m": (
        ["prune", "RUNS/dense", "--granularity", "2:4", "--scope", "erk", "--out", "x"],
        "erk",
    ),
    "report of two runs of one name": (
        ["report", "RUNS/dense", "TWIN/dense", "--no-latency", "--out", "r.html"],
        "one name",
    ),
    "amount beside n:m": (
        ["prune", "RUNS/dense", "--granularity", "2:4", "--amount", "0.9", "--out", "x"],
        "leave amount out",
    ),
    "out is the run": (["prune", "RUNS/dense", "--amount", "0.5", "--out", "RUNS/dense"], "another --out"),
    "out holds another run": (["prune", "RUNS/dense", "--amount", "0.6", "--out", "RUNS/cut"], "--overwrite"),
    "out is a file": (["prune", "RUNS/dense", "--amount", "0.5", "--out", "FILE"], "file"),
    "out holds other files": (["train", *QUICK, "--out", "FULL"], "other files"),
    "out below a file": (["train", *QUICK, "--out", "FILE/x"], "file"),
    "read-only out": (["train", *QUICK, "--out", "/proc/x"], "/proc/x"),
    "no such run": (["eval", "nowhere"], "nowhere"),
    "empty folder": (["eval", "EMPTY"], "run.json"),
    "a file for a run": (["inspect", "FILE"], "file"),
    "run.json is no JSON": (["eval", "BROKEN"], "JSON"),
    "truncated model": (["eval", "TRUNCATED"], "truncated"),
    "model of another run": (["eval", "SWAPPED"], "another model"),
    "NaN weights": (["prune", "NAN", "--amount", "0.5", "--out", "x"], "NaN"),
    "NaN weights, safe rate": (["safe-rate", "NAN"], "NaN"),
    "NaN weights, eval": (["eval", "NAN"], "NaN"),
    "checkpoint missing": (
        ["import", "--model", "convnet", "--data", "digits", "--weights", "no.pth", "--out", "x"],
        "no.pth",
    ),
    "checkpoint truncated": (
        ["import", "--model", "convnet", "--data", "digits", "--weights", "CUT.pth", "--out", "x"],
        "CUT.pth",
    ),
    "checkpoint of another model": (
        ["import", "--model", "convnet", "--data", "digits", "--weights", "OTHER.pth", "--out", "x"],
        "another model",
    ),
    "checkpoint with code": (
        ["import", "--model", "convnet", "--data", "digits", "--weights", "EVIL.pth", "--out", "x"],
        "EVIL.pth",
    ),
    "negative epochs": (["train", *QUICK, "--epochs", "-1", "--out", "x"], "--epochs"),
    "zero learning rate": (["train", *QUICK, "--lr", "0", "--out", "x"], "--lr"),
    "infinite learning rate": (["train", *QUICK, "--lr", "inf", "--out", "x"], "--lr"),
    "diverging": (["train", *QUICK, "--lr", "1e9", "--momentum", "0.99", "--out", "x"], "learning rate"),
    "unknown optimizer": (["train", *QUICK, "--optimizer", "sdg", "--out", "x"], "sgd"),
    "unknown schedule": (["train", *QUICK, "--schedule", "cosin", "--out", "x"], "cosine"),
    "unknown augmentation": (["train", *QUICK, "--augment", "mixup", "--out", "x"], "mixup"),
    "unknown precision": (["train", *QUICK, "--precision", "8", "--out", "x"], "precision"),
    "unknown accelerator": (["train", *QUICK, "--accelerator", "abacus", "--out", "x"], "abacus"),
    "bad span": (["train", *QUICK, "--warmup", "soon", "--out", "x"], "soon"),
    "bad model argument": (["train", *QUICK, "--model-arg", "colour=red", "--out", "x"], "colour"),
    "malformed model argument": (["train", *QUICK, "--model-arg", "colour", "--out", "x"], "name=value"),
    "model that can't take the data": (["train", "--model", "vgg11", "--data", "digits", "--out", "x"], "8"),
    "bad normalisation": (["train", *QUICK, "--normalize", "1/0", "--out", "x"], "normalisation"),
    "empty data folder": (["train", "--model", "convnet", "--data", "folder:EMPTY", "--out", "x"], "EMPTY"),
    "data not there": (
        [
            "train",
            "--model",
            "lenet5",
            "--data",
            "mnist",
            "--data-root",
            "EMPTY",
            "--no-download",
            "--out",
            "x",
        ],
        "EMPTY",
    ),
    "user code that isn't there": (
        ["train", "--model", "nopackage.module:make", "--data", "digits", "--out", "x"],
        "nopackage",
    ),
    "stored user code": (["eval", "FOREIGN"], "--trust"),
    "recipe missing": (["run", "no.yaml"], "no.yaml"),
    "recipe no YAML": (["run", "BAD.yaml"], "YAML"),
    "recipe of something else": (["run", "LIST.yaml"], "recipe"),
    "recipe with unknown step": (["run", "STEP.yaml"], "prune"),
    "recipe with unknown key": (["run", "KEY.yaml"], "colour"),
    "recipe with open brace": (["run", "HOLE.yaml"], "{amount}"),
    "report into a folder": (["report", "RUNS/dense", "--no-latency", "--out", "EMPTY"], "folder"),
    "glob without match": (["compare", "nothing-*"], "nothing-"),
    "unknown command": (["trian"], "train"),
    "unknown option": (["train", "--modle", "lenet5"], "--model"),
    "missing option": (["train", "--model", "lenet5"], "--data"),
    "missing argument": (["eval"], "RUN"),
    "unknown format": (["eval", "RUNS/dense", "--format", "xml"], "--format"),
    "unknown list format": (["models", "--format", "xml"], "xml"),
}


@pytest.fixture
def workshop(trained, tmp_path):
    """Build the broken things the mistakes speak of, and return how their names read."""
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("just a file")
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL/thesis.tex").write_text("precious")
    for name in ("BROKEN", "TRUNCATED", "SWAPPED", "NAN", "FOREIGN"):
        (tmp_path / name).mkdir()
        for file in ("run.json", "model.safetensors"):
            (tmp_path / name / file).write_bytes((trained / "dense" / file).read_bytes())
    shutil.copytree(trained / "dense", tmp_path / "TWIN/dense")
    (tmp_path / "BROKEN/run.json").write_text('{"format": 1,')
    whole = (trained / "dense/model.safetensors").read_bytes()
    (tmp_path / "TRUNCATED/model.safetensors").write_bytes(whole[: len(whole) // 2])
    secateur.save(nn.Linear(3, 3), tmp_path / "SWAPPED/model.safetensors")
    model = secateur.load(trained / "dense/model.safetensors")
    torch.save(model.state_dict(), tmp_path / "GOOD.pth")
    (tmp_path / "CUT.pth").write_bytes((tmp_path / "GOOD.pth").read_bytes()[:1000])
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "OTHER.pth")
    (tmp_path / "EVIL.pth").write_bytes(pickle.dumps(Evil(str(tmp_path / "ran"))))
    with torch.no_grad():
        next(model.parameters())[0] = float("nan")
    secateur.save(model, tmp_path / "NAN/model.safetensors")
    about = json.loads((trained / "dense/run.json").read_text())
    about["model"] = {"name": "os:getcwd", "args": {}}
    (tmp_path / "FOREIGN/run.json").write_text(json.dumps(about))
    (tmp_path / "BAD.yaml").write_text("steps: [")
    (tmp_path / "LIST.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "STEP.yaml").write_text("secateur: 1\nsteps:\n- do: pruen\n")
    (tmp_path / "KEY.yaml").write_text("secateur: 1\nsteps:\n- {do: eval, run: x, colour: red}\n")
    (tmp_path / "HOLE.yaml").write_text(
        'secateur: 1\nsteps:\n- {do: prune, run: x, out: y, amount: "{amount}"}\n'
    )
    return tmp_path


class Evil:
    """A pickle that would leave a mark if it were ever loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence(mistake, secateur_command, workshop, trained):
    words, mentioned = MISTAKES[mistake]
    words = [word.replace("RUNS", str(trained)) for word in words]
    before = snapshot(workshop), snapshot(trained)
    ran = secateur_command(*words)
    assert ran.code == 2
    assert mentioned in ran.err
    assert ran.err.startswith("secateur: ")
    assert len(ran.err.strip().splitlines()) == 1
    assert "Traceback" not in ran.err
    assert ran.out == ""
    if mistake != "diverging":  # a training that began leaves its log
        assert (snapshot(workshop), snapshot(trained)) == before


def test_a_stop_while_the_package_is_imported_ends_in_one_sentence():
    code = "import os, signal, sys, secateur_command; sys.addaudithook(lambda event, given: "
    code += "os.kill(os.getpid(), signal.SIGINT) if event == 'import' and given[0] == 'typer' else None); "
    code += "secateur_command.main()"
    stopped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (stopped.returncode, stopped.stderr) == (130, "secateur: stopped.\n")


@pytest.mark.parametrize("words", [(), ("study",)])
def test_without_a_command_the_help_keeps_its_lines(words, secateur_command):
    told = secateur_command(*words)
    assert (told.code, told.out) == (2, "")
    lines = told.err.splitlines()
    assert len(lines) > 5
    assert all(len(line) <= 120 for line in lines)


def test_what_masks_do_not_bring_is_said_once(secateur_command, trained):
    for amount in ("0.8", "0.9"):
        words = ("prune", trained / "dense", "--amount", amount, "--no-evaluate", "--out", f"p{amount}")
        assert secateur_command(*words).code == 0
    told = secateur_command("compare", "p0.8", "p0.9", "--no-latency").out
    assert told.count("keep their size") == 1
    assert re.search(r"Of 2 models (79|80) to (89|90) % of the weights are zero", " ".join(told.split()))
