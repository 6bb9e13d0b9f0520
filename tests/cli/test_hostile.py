"""Hostile words, recipes, names and streams: one sentence and exit code 2, no traceback, no raw control characters."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys

import pytest

from secateur.core.files import locked
from secateur.core.visible import UNFIT

TRAIN = ["train", "--model", "convnet", "--data", "digits", "--epochs", "0"]
CUT = ["prune", "dense", "--amount", "0.5", "--out", "p"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A folder with one run, `dense`; tests copy it."""
    root = tmp_path_factory.mktemp("runs")
    subprocess.run([sys.executable, "-m", "secateur", *TRAIN, "--out", "dense"], cwd=root, check=True)
    return root / "dense"


def refused(ran):
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran
    assert ran.err.startswith("secateur: ")
    assert not UNFIT.search(ran.err.rstrip("\n")), repr(ran.err)
    return ran.err


WORDS = {
    "bracket for a word": [*CUT, "--norm", "["],
    "date for a number": [*CUT[:2], "--granularity", "channel", "--budget", "macs=2024-13-45", "--out", "p"],
    "model argument name": [*TRAIN, "--model-arg", "name=2", "--out", "p"],
    "model argument input_shape": [*TRAIN, "--model-arg", "input_shape=2", "--out", "p"],
    "model argument self": [*TRAIN, "--model-arg", "self=2", "--out", "p"],
    "other number of classes": [*TRAIN, "--model-arg", "num_classes=7", "--out", "p"],
    "endless warm-up": [*TRAIN, "--warmup", "9" * 400 + "ep", "--out", "p"],
    "large warm-up": [*TRAIN, "--warmup", "1e300ep", "--out", "p"],
    "escape in a name": ["eval", "lr\x1b[1m"],
    "NUL in a name": ["eval", "a\0b"],
    "surrogate in a name": ["eval", "a\udcffb"],
    "more processes than cores": [*TRAIN, "--devices", "9999", "--accelerator", "cpu", "--out", "p"],
    "torch's name": [*CUT, "--criterion", "l1"],
    "torch's other name": [*CUT, "--criterion", "ln_structured"],
    "torch's granularity": [*CUT, "--granularity", "unstructured"],
}


@pytest.mark.parametrize("case", WORDS)
def test_words(secateur_command, dense, tmp_path, case):
    (tmp_path / "dense").symlink_to(dense)
    refused(secateur_command(*WORDS[case]))
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    {"l1": "magnitude with norm l1 .--norm l1", "ln_structured": "granularity channel", "L1-norm": "norm l1",
     "random_unstructured": "here it is random", "global_unstructured": "scope global"}.items(),
)  # fmt: skip
def test_names_of_other_tools(secateur_command, dense, tmp_path, name, words):
    (tmp_path / "dense").symlink_to(dense)
    error = refused(secateur_command(*CUT, "--criterion", name))
    assert words.replace(".", "(") in error


RECIPES = {
    "date": "- {do: eval, run: 2024-13-45}",
    "alias in itself": "- {do: train, model: &m {x: *m}, data: digits, out: a}",
    "steps a number": "- {for: {a: [1]}, steps: 5}",
    "steps a text": "- {for: {a: [1]}, steps: abc}",
    "huge range": "- {for: {a: 1..99999999999999999999}, steps: [{do: eval, run: dense}]}",
    "large range": "- {for: {a: 1..999999999999999}, steps: [{do: eval, run: dense}]}",
    "key self": "- {do: eval, self: 1}",
    "key of no text": "- {do: eval, 1: 1}",
    "NUL": '- {do: eval, run: "a\\0b"}',
    "escape": '- {do: eval, run: "a\\e[1m"}',
    "list for a step": "- [eval]",
    "list for a name": "- {do: [eval]}",
}


@pytest.mark.parametrize("case", RECIPES)
def test_recipes(secateur_command, tmp_path, case):
    (tmp_path / "a.yaml").write_text(f"secateur: 1\nsteps:\n{RECIPES[case]}\n")
    refused(secateur_command("run", "a.yaml"))


def test_numbers_are_those_of_yaml_1_2(secateur_command, tmp_path):
    slim = [*TRAIN, "--method", "slimming"]
    assert secateur_command(*slim, "--strength", "1e-4", "--out", "a").code == 0
    assert secateur_command(*slim, "--strength", "0.0001", "--out", "b").code == 0
    recipe = "{do: train, model: convnet, data: digits, epochs: 0, method: slimming, strength: 1e-4, out: c}"
    (tmp_path / "c.yaml").write_text(f"secateur: 1\nsteps:\n- {recipe}\n")
    assert secateur_command("run", "c.yaml").code == 0
    for name in "abc":
        about = json.loads((tmp_path / name / "run.json").read_text())
        assert about["history"][0]["config"]["options"] == {"strength": 0.0001}


def test_the_number_of_classes_may_be_said(secateur_command, tmp_path):
    assert secateur_command(*TRAIN, "--model-arg", "num_classes=10", "--out", "a").code == 0
    assert secateur_command("prune", "a", "--amount", "0.5", "--out", "b").code == 0


def test_control_characters_in_the_names_of_a_report(secateur_command, dense, tmp_path):
    (tmp_path / "lr\x1b[1m").symlink_to(dense)
    assert secateur_command("prune", "lr\x1b[1m", "--amount", "0.5", "--out", "cut\x07").code == 0
    shown = secateur_command(
        "report", "lr\x1b[1m", "cut\x07", "--no-latency", "--out", "r.html", "--charts", "c"
    )
    assert (shown.code, shown.err) == (0, "")
    assert not UNFIT.search(shown.out.replace("\n", ""))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    head = page.partition("<script")[0]
    assert "cut\\u0007" in head
    assert not UNFIT.search(head)
    table = secateur_command("compare", "lr\x1b[1m", "cut\x07", "--no-latency")
    assert (table.code, "\x1b" in table.out, "\x07" in table.out) == (0, False, False)


def test_two_cuts_into_one_folder(secateur_command, dense, tmp_path):
    (tmp_path / "dense").symlink_to(dense)
    with locked(tmp_path / "p"):
        assert "Another process is at work in p" in refused(secateur_command(*CUT))
    assert secateur_command(*CUT).code == 0


def test_databases_of_others(secateur_command, tmp_path):
    cell = '{do: train, model: convnet, data: digits, epochs: 0, seed: "{seed}", out: d}'
    (tmp_path / "s.yaml").write_text(f"secateur: 1\nstudy: {{seed: [0]}}\nsteps:\n- {cell}\n")
    root = tmp_path / "s"
    root.mkdir()
    with sqlite3.connect(root / "study.sqlite") as other:
        other.execute("create table theirs (key)")
    for command in ("run", "table", "status"):
        assert "of another program" in refused(secateur_command("study", command, "s.yaml"))
    (root / "study.sqlite").unlink()
    assert secateur_command("study", "run", "s.yaml").code == 0
    for change in ("result = '[1]'", "result = 'x'", 'result = \'{"parameters": "a"}\'', "seconds = 'x'"):
        with sqlite3.connect(root / "study.sqlite") as ours:
            ours.execute(f"update tasks set {change}")
        refused(secateur_command("study", "table", "s.yaml"))
        with sqlite3.connect(root / "study.sqlite") as ours:
            ours.execute("update tasks set result = '{}', seconds = 1.0")


def shell(command, cwd, **variables):
    line = f"set -o pipefail; {command.replace('secateur', f'{sys.executable} -m secateur')}"
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env={**os.environ, **variables}, capture_output=True, timeout=120, check=False
    )  # fmt: skip


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_streams_without_the_characters(dense, variables):
    ran = shell("secateur criteria", dense.parent, **variables)
    assert (ran.returncode, ran.stderr) == (0, b"")
    ran.stdout.decode("ascii")


@pytest.mark.parametrize("command", ["secateur criteria | head -1", "secateur criteria >&-"])
def test_streams_that_end(dense, command):
    ran = shell(command, dense.parent)
    assert (ran.returncode in (0, 1), ran.stderr) == (True, b"")
