"""The command `secateur proxies`: what it shows and keeps, what a second run does, mistakes."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch
from folders import snapshot

import secateur
from secateur import models, proxies
from secateur.core.errors import InputError
from secateur.core.files import write_json
from secateur.core.seeds import seed_of
from secateur.models import nasbench201
from secateur.proxies import PROXIES, ranking
from secateur.steps import STEPS, result_file
from secateur.steps.recipe import parse_recipe

SMALL = ("--model-arg", "channels=4", "--model-arg", "cells=1", "--data", "digits", "--batch", "12")
FAST = ("--proxies", "synflow", "snip")
CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|none~0|nor_conv_1x1~1|avg_pool_3x3~2|"
DEAD = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


@pytest.fixture
def scored(monkeypatch):
    """Which networks are scored by which proxies, as it goes on."""
    found, real = [], ranking._scored

    def scoring(subject, proxy, options):
        found.append(proxy.name)
        return real(subject, proxy, options)

    monkeypatch.setattr(ranking, "_scored", scoring)
    return found


def records(folder: str = "out") -> list[dict]:
    return json.loads(Path(folder, "proxies.json").read_text(encoding="utf-8"))


def test_scores_are_those_of_the_library(secateur_command):
    ran = secateur_command(
        "proxies", "--models", "lenet300", "convnet", "--data", "digits", "--seed", "3", "--format", "json"
    )
    assert (ran.code, ran.err) == (0, "")
    data = secateur.load_data("digits")
    chosen = data.subset(train=64, seed=3).train
    batch = (data.normalised(chosen.inputs), chosen.labels)
    found = {row["name"]: row for row in json.loads(ran.out)["networks"]}
    assert list(found) == ["lenet300", "convnet"]
    for name, row in found.items():
        torch.manual_seed(seed_of("init", 3))  # as secateur train --seed 3 starts
        model = models.build(name, num_classes=10, input_shape=(1, 8, 8))
        alone = {proxy for proxy in PROXIES if not PROXIES[proxy].voters}
        assert {p: proxies.score(model, p, batch) for p in alone} == {p: row["scores"][p] for p in alone}
        assert set(row["scores"]) == set(PROXIES)
        assert all(seconds > 0 for seconds in row["seconds"].values())


def test_the_best_network_comes_first(secateur_command):
    words = ("proxies", "--models", "lenet300", "convnet", CELL, "--data", "digits", *FAST, "--format", "csv")
    rows = list(
        csv.DictReader(
            io.StringIO(secateur_command(*words[:5], "--data", "digits", *FAST, "--format", "csv").out)
        )
    )
    assert [*rows[0]] == ["name", "synflow", "snip", "seconds"]
    flows = [float(row["synflow"]) for row in rows]
    assert flows == sorted(flows, reverse=True)
    assert {row["name"] for row in rows} == {"lenet300", "convnet", CELL}


@pytest.mark.parametrize("format", ["text", "markdown"])
def test_tables_for_people(format, secateur_command):
    ran = secateur_command("proxies", "--models", CELL, DEAD, *SMALL, "--format", format)
    assert ran.code == 0
    lines = ran.out.splitlines()
    table = [line for line in lines if line.startswith(("┃", "│", "|", "┏", "└"))]
    assert len({len(line) for line in table}) == 1
    if format == "text":
        assert f"No jacob_cov of {DEAD}: The proxy jacob_cov gives no finite number" in ran.out
        assert lines[-1] == "2 networks scored now, 0 were there already."


def test_a_second_run_does_nothing(secateur_command, scored):
    words = ("proxies", "--nasbench201", "3", *SMALL, *FAST, "--out", "out")
    first = secateur_command(*words)
    assert (first.code, scored) == (0, ["synflow", "snip"] * 3)
    before = snapshot(Path("out"))
    second = secateur_command(*words)
    assert len(scored) == 6
    assert second.out.splitlines()[:-1] == first.out.splitlines()[:-1]
    assert second.out.splitlines()[-1] == "0 networks scored now, 3 were there already."
    assert snapshot(Path("out")) == before
    more = secateur_command(*words[:1], "--nasbench201", "4", *words[3:])  # begins with the same three
    assert "1 network scored now, 3 were there already." in more.out
    secateur_command(*words, "--overwrite")
    assert len(scored) == 14


def test_a_stopped_run_goes_on(secateur_command, monkeypatch):
    words = ("proxies", "--nasbench201", "4", *SMALL, *FAST, "--out", "out")
    whole = secateur_command(*words[:-1], "whole", "--format", "json")
    assert (whole.code, whole.err) == (0, "")
    made, real = [], ranking._built

    def built(build, data, seed):
        made.append(build)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(build, data, seed)

    monkeypatch.setattr(ranking, "_built", built)
    stopped = secateur_command(*words)
    assert stopped.code == 130
    assert [record["name"] for record in records()] == [record["name"] for record in records("whole")][:2]
    assert {path.name for path in Path("out").iterdir()} == {"proxies.json"}
    kept = records()
    again = secateur_command(*words, "--format", "json")
    assert records()[:2] == kept
    assert len(made) == 5  # the third once more, and the fourth
    for one, other in zip(json.loads(whole.out)["networks"], json.loads(again.out)["networks"], strict=True):
        assert (one["name"], one["scores"]) == (other["name"], other["scores"])


def test_what_is_kept_is_written_as_it_comes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "out/proxies.json"
    for seconds, early in ((0.0, 2), (1e9, 1)):
        monkeypatch.setattr(result_file, "SECONDS", seconds)
        with result_file.Cells.open(file, ("name",), lambda record: True, "it") as found:
            found.keep({"name": "a"})
            found.keep({"name": "b"})
            assert len(records()) == early
        assert records() == [{"name": "a"}, {"name": "b"}]
        file.unlink()
    with result_file.Cells.open(file, ("name",), lambda record: True, "it"):
        pass
    assert not file.exists()  # nothing was found


def test_other_proxies_are_added_and_other_settings_stand_beside(secateur_command, scored):
    words = ("proxies", "--models", "lenet300", "--data", "digits", "--out", "out")
    secateur_command(*words, "--proxies", "snip")
    secateur_command(*words, "--proxies", "plain,snip")
    assert scored == ["snip", "plain"]
    (record,) = records()
    assert set(record["scores"]) == {"snip", "plain"}
    for other in (("--seed", "1"), ("--batch", "32"), ("--normalize", "none")):
        secateur_command(*words, *other, "--proxies", "snip")
    assert len(records()) == len(scored) - 1 == 4
    assert len({record["scores"]["snip"] for record in records()}) == 4


def test_accuracies_give_correlations(secateur_command, tmp_path):
    drawn = nasbench201.draw(5, 1)
    accuracies = {
        str([tuple((name, i) for i, name in enumerate(node)) for node in cell]): 50.0 + place
        for place, cell in enumerate(drawn)
    }
    write_json(tmp_path / "accuracies.json", accuracies)
    words = ("proxies", "--cells", "accuracies.json", "--accuracies", "accuracies.json", *SMALL)
    told = json.loads(secateur_command(*words, "--format", "json").out)
    assert [row["name"] for row in told["networks"]] == list(map(nasbench201.written, drawn))
    rows = [proxies.NetworkScores(**row) for row in told["networks"]]
    reached = {nasbench201.written(cell): 50.0 + place for place, cell in enumerate(drawn)}
    assert told["correlations"] == proxies.correlations(rows, reached)
    table = list(csv.DictReader(io.StringIO(secateur_command(*words, "--format", "csv").out)))
    assert [row["proxy"] for row in table] == list(PROXIES)
    for row in table:
        assert float(row["kendall"]) == told["correlations"][row["proxy"]]["kendall"]
        assert float(row["seconds"]) > 0


def test_cells_of_a_file_are_drawn_by_the_seed(secateur_command, tmp_path):
    names = list(map(nasbench201.written, nasbench201.draw(9, 1)))
    write_json(tmp_path / "cells.json", names)

    def drawn(*words: str) -> list[str]:
        ran = secateur_command(
            "proxies", "--cells", "cells.json", *SMALL, "--proxies", "synflow", "--format", "json", *words
        )
        return [row["name"] for row in json.loads(ran.out)["networks"]]

    assert drawn() == names
    few = drawn("--nasbench201", "4")
    assert len(set(few)) == 4
    assert set(few) < set(names)
    assert few == drawn("--nasbench201", "4") != drawn("--nasbench201", "4", "--seed", "5")


def test_a_network_of_nasbench201_trains_by_its_cell(secateur_command):
    small = ("--model-arg", "channels=4", "--model-arg", "cells=1")
    words = ("train", "--model", "nasbench201", "--model-arg", f"arch={CELL}", *small, "--data", "digits")
    ran = secateur_command(*words, "--epochs", "1", "--train-subset", "100", "--out", "run")
    assert (ran.code, ran.err) == (0, "")
    assert "arch" in json.loads(Path("run/run.json").read_text())["model"]["args"]
    assert secateur_command("eval", "run").code == 0
    wrong = secateur_command(*words[:4], "arch=|none~0|", "--data", "digits", "--out", "wrong")
    assert wrong.code == 2
    assert "Cannot read the cell" in wrong.err


def test_it_is_a_step_of_a_recipe():
    entry = {"do": "proxies", "models": ["lenet300"], "data": "digits", "proxies": ["snip"]}
    (step,) = parse_recipe({"secateur": 1, "steps": [entry]})
    assert isinstance(step, STEPS["proxies"])
    with pytest.raises(InputError, match="did you mean snip"):
        parse_recipe({"secateur": 1, "steps": [{**entry, "proxies": ["snipp"]}]})
    (step,) = parse_recipe({"secateur": 1, "steps": [{**entry, "models": ["mine:make"]}]})
    with pytest.raises(InputError, match="--trust"):
        step.perform(secateur.steps.Context(taken={}))


GIVEN = ("--models", "lenet300", "--data", "digits")
MISTAKES = {
    "no network": (("--data", "digits"), "--nasbench201 NUMBER"),
    "no data": (("--models", "lenet300"), "--data"),
    "unknown network": (("--models", "lenet30", "--data", "digits"), "lenet300"),
    "unknown data": (("--models", "lenet300", "--data", "digitz"), "digits"),
    "unknown proxy": ((*GIVEN, "--proxies", "sinflow"), "did you mean synflow"),
    "unknown device": ((*GIVEN, "--device", "cpuu"), "cpuu"),
    "unreadable cell": (("--models", "|none~0|", "--data", "digits"), "Cannot read the cell"),
    "no cells": (("--nasbench201", "0", "--data", "digits"), "--nasbench201"),
    "too many cells": (("--nasbench201", "15626", "--data", "digits"), "15,625"),
    "more cells than there are": (
        ("--nasbench201", "3", "--cells", "cells.json", "--data", "digits"),
        "holds 1 cells",
    ),
    "file that is missing": (("--cells", "no.json", "--data", "digits"), "no such file"),
    "file that holds no cells": (("--cells", "numbers.json", "--data", "digits"), "holds no cells"),
    "file that holds no accuracies": ((*GIVEN, "--accuracies", "cells.json"), "holds no accuracies"),
    "accuracies of others": ((*GIVEN, "--accuracies", "accuracies.json"), "holds no accuracy of"),
    "accuracies that are no JSON": ((*GIVEN, "--accuracies", "broken.json"), "not valid JSON"),
    "nothing to be had": (("--models", "lenet5", "--data", "digits"), "lenet5 needs images"),
    "one sample for what compares samples": (
        (*GIVEN, "--batch", "1", "--proxies", "jacob_cov"),
        "two or more",
    ),
    "batch of none": ((*GIVEN, "--batch", "0"), "--batch"),
    "something else in the way": ((*GIVEN, "--out", "taken"), "something else"),
    "argument of no network": ((*GIVEN, "--model-arg", "depth=2"), "depth"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence(mistake, secateur_command, tmp_path):
    write_json(tmp_path / "cells.json", [CELL])
    write_json(tmp_path / "numbers.json", [1, 2])
    write_json(tmp_path / "accuracies.json", {"resnet20": 0.9})
    write_json(tmp_path / "taken/proxies.json", [{"mine": 1}])
    (tmp_path / "broken.json").write_text("{")
    words, mentioned = MISTAKES[mistake]
    ran = secateur_command("proxies", *words)
    assert (ran.code, ran.out) == (2, "")
    assert mentioned in ran.err
    assert re.fullmatch(r"secateur: [^\n]+\n", ran.err)
    assert json.loads((tmp_path / "taken/proxies.json").read_text()) == [{"mine": 1}]
