"""Dropping against fusing, group by group: what is measured, what is kept, what a second run does, mistakes."""

from __future__ import annotations

import datetime
import json
import math
import re
from pathlib import Path

import pytest
import torch
from folders import snapshot
from torch import nn

import secateur
from secateur.cli.spaced import repeated
from secateur.compensation import COMPENSATIONS
from secateur.core.errors import InputError, ModelError
from secateur.core.files import write_json
from secateur.measure import cost
from secateur.runs.run import Run
from secateur.steps import CompareFusion, FusionResults, Prune, Train, fusing
from secateur.steps.fusing import FusionSubject, alone, from_output
from secateur.steps.recipe import parse_recipe

pytest.importorskip("ot")
NAMES = ["7.weight", "3.weight", "0.weight"]
WIDTHS = [64, 32, 16]
FAST = {"test_samples": 40, "batch_size": 1}
WORDS = ("--test-samples", "40", "--batch-size", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one trained run, `dense`; tests must not change it."""
    root = tmp_path_factory.mktemp("runs")
    Train(model="convnet", data="digits", epochs=1, batch_size=256, out="dense")(root)
    return root


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Time for a moment only."""
    original = fusing.compare_latency
    monkeypatch.setattr(
        fusing,
        "compare_latency",
        lambda models, example, batch, threads, _: original(models, example, batch, 1, 0.002, 1),
    )


def cells(folder) -> list[dict]:
    return json.loads((Path(folder) / "fusion.json").read_text(encoding="utf-8"))


def test_what_a_record_holds_is_what_the_library_says(trained, tmp_path):
    out = str(tmp_path / "out")
    step = CompareFusion(
        run=str(trained / "dense"),
        out=out,
        groups=(1,),
        sparsities=(0.3, 0.5),
        reconstruct=True,
        calibration=64,
        **FAST,
    )
    outcome = step()
    records = cells(out)
    assert [(r["group_index"], r["group_name"], r["sparsity"]) for r in records] == [
        (1, "3.weight", 0.3),
        (1, "3.weight", 0.5),
    ]
    run = Run.open(trained / "dense")
    data, model = run.load_data(), run.load_model()[0]
    tested, sizes = data.subset(test=40), (32 - 10, 16)
    for record, width in zip(records, sizes, strict=True):
        assert datetime.datetime.fromisoformat(record["timestamp"]).tzinfo is not None
        whole = record["original_model"]
        assert whole["accuracy"] == secateur.evaluate(model, tested)["top1"]
        assert (whole["parameters"], whole["macs"]) == (24058, cost(model, data.example(1)).macs)
        for way, compensation in fusing.WAYS.items():
            small = record[way]
            # a channel of the middle group: its filter, scale and shift, and the kernels that read it
            assert small["parameters"] == 24058 - (32 - width) * (16 * 9 + 2 + 64 * 9)
            assert small["macs"] < whole["macs"]
            assert small["inference_time"]["cpu"] > 0
            fits = compensation == "reconstruct"
            expected = secateur.prune(
                model,
                data.example(2),
                granularity="channel",
                criterion="folded_norm",
                amount=record["sparsity"],
                scope="local",
                keep=("0.weight", "1", "8", "12"),
                compensation=compensation,
                correct=fits,
                data=list(secateur.steps.prune.samples(data, 64, 0)) if fits else None,
            )
            assert small["accuracy"] == secateur.evaluate(expected.model, tested)["top1"]
        assert record["calibration"]["samples"] == 64
    assert [row["group"] for row in outcome.table.rows] == ["1 (3.weight)"] * 2
    assert outcome.record == records


def test_groups_are_counted_from_the_output(trained):
    model, _ = Run.open(trained / "dense").load_model()
    found = from_output(model, secateur.analyze(model, torch.zeros(2, 1, 8, 8)))
    assert [(group.name, group.units) for group in found] == list(zip(NAMES, WIDTHS, strict=True))


def test_a_residual_stream_stands_where_it_is_made_last():
    model = secateur.build("resnet20", num_classes=10, input_shape=(3, 8, 8))
    found = from_output(model, secateur.analyze(model, torch.zeros(2, 3, 8, 8)))
    assert [(group.name, group.units) for group in found[:6]] == [
        ("layer3.0.conv2.weight", 32),  # what the last stage adds to the stream
        ("layer2.0.conv2.weight", 16),
        ("conv1.weight", 16),  # what all stages share: it is made last where the others are
        ("layer3.2.conv1.weight", 64),
        ("layer3.1.conv1.weight", 64),
        ("layer3.0.conv1.weight", 64),
    ]
    assert not any(member.name == "linear.bias" for group in found for member in group.members)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_group_goes_alone(index, trained):
    run = Run.open(trained / "dense")
    model, data = run.load_model()[0], run.load_data()
    groups = from_output(model, secateur.analyze(model, data.example(2)))
    cut = secateur.prune(
        model,
        data.example(2),
        granularity="channel",
        amount=0.5,
        scope="local",
        **alone(groups, groups[index]),
    )
    kept = [cut.kept[group.name] for group in groups]
    assert kept == [width // 2 if at == index else width for at, width in enumerate(WIDTHS)]


class Residual(nn.Module):
    """A stream that runs through every tensor of the block, which has neither biases nor norms."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 6, 3, bias=False), nn.Linear(6, 10)
        self.up, self.down = nn.Conv2d(6, 8, 1, bias=False), nn.Conv2d(8, 6, 1, bias=False)

    def forward(self, images):
        x = self.stem(images)
        return self.head((x + self.down(self.up(x).relu())).mean((2, 3)))


def test_a_stream_goes_alone_too(monkeypatch):
    model, data = Residual(), secateur.load_data("digits")
    groups = from_output(model, secateur.analyze(model, data.example(2)))
    subject = FusionSubject(model, secateur.Masks({}), groups, data, "magnitude")
    inner, stream = sorted(groups, key=lambda group: group.name, reverse=True)
    small = subject.cut(inner, 0.5, "drop").model
    assert (small.up.out_channels, small.stem.out_channels) == (4, 6)
    small = subject.cut(stream, 0.5, "drop").model
    assert (small.up.out_channels, small.stem.out_channels) == (8, 3)
    monkeypatch.setattr(fusing, "alone", lambda groups, group: {})
    with pytest.raises(ModelError, match="can't be cut alone"):
        subject.cut(stream, 0.5, "drop")


def test_the_second_run_does_nothing(secateur_command, trained, monkeypatch):
    words = (
        "compare-fusion",
        "--run",
        trained / "dense",
        *WORDS,
        "--groups",
        "0",
        "2",
        "--sparsities",
        "0.5",
        "0.3",
    )
    first = secateur_command(*words, "--out", "out")
    assert (first.code, first.err) == (0, "")
    assert "out/fusion.json: 4 cells measured now, 0 were there already.\n" in first.out
    before = snapshot(Path("out"))

    def never(*args, **kwargs):
        raise AssertionError("a finished cell was made again")

    monkeypatch.setattr(fusing, "prune", never)
    monkeypatch.setattr(fusing, "evaluate", never)
    second = secateur_command(*words, "--out", "out")
    assert "0 cells measured now, 4 were there already" in second.out
    assert snapshot(Path("out")) == before
    assert first.out.splitlines()[:-1] == second.out.splitlines()[:-1]


def test_a_killed_run_goes_on_where_it_stopped(trained, tmp_path, monkeypatch):
    step = CompareFusion(
        run=str(trained / "dense"), out=str(tmp_path / "out"), groups=(0, 1), sparsities=(0.5, 0.3), **FAST
    )
    made, real = [], fusing.prune

    def prune(*args, **kwargs):
        made.append((kwargs["layers"][0], kwargs["amount"], kwargs["compensation"]))
        if len(made) == 6:  # in the third cell, half done
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(fusing, "prune", prune)
    with pytest.raises(KeyboardInterrupt):
        step()
    kept = cells(tmp_path / "out")
    assert [(r["group_index"], r["sparsity"]) for r in kept] == [(0, 0.5), (0, 0.3)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"fusion.json"}
    done = set(made[:4])
    made[:] = made[:1] * 6
    evaluated = []
    evaluate = fusing.evaluate
    monkeypatch.setattr(
        fusing, "evaluate", lambda model, *a, **k: evaluated.append(model) or evaluate(model, *a, **k)
    )
    step()
    assert cells(tmp_path / "out")[:2] == kept
    assert len(cells(tmp_path / "out")) == 4
    assert not done & set(made[6:])
    assert len(made[6:]) == 4
    assert len(evaluated) == 4  # not the whole model again


def test_a_way_asked_for_later_is_added(trained, tmp_path, monkeypatch):
    asked = {
        "run": str(trained / "dense"),
        "out": str(tmp_path / "out"),
        "groups": (2,),
        "sparsities": (0.3,),
        **FAST,
    }
    CompareFusion(**asked)()
    (before,) = cells(tmp_path / "out")
    made, real = [], fusing.prune
    monkeypatch.setattr(fusing, "prune", lambda *a, **k: made.append(k["compensation"]) or real(*a, **k))
    CompareFusion(**asked, reconstruct=True)()
    (after,) = cells(tmp_path / "out")
    assert made == ["reconstruct"]
    for way in ("original_model", "default_pruning", "intra_fusion"):
        assert after[way] == before[way]
    assert after["reconstruction"]["parameters"] == before["intra_fusion"]["parameters"]
    CompareFusion(**asked)()
    assert cells(tmp_path / "out") == [after]


def test_other_settings_are_other_cells(trained, tmp_path):
    asked = {
        "run": str(trained / "dense"),
        "out": str(tmp_path / "out"),
        "groups": (2,),
        "sparsities": (0.3,),
        **FAST,
    }
    for more in (
        {},
        {"criterion": "lamp"},
        {"p": 2.0},
        {"seed": 1},
        {"criterion": "taylor", "calibration": 64},
    ):
        assert "1 cell measured now" in CompareFusion(**asked, **more)().lines[0]
    records = cells(tmp_path / "out")
    assert [record["criterion"] for record in records] == ["l1", "lamp", "l1", "l1", "taylor"]
    assert "calibration" in records[4]
    assert "calibration" not in records[0]
    table = FusionResults(folder=str(tmp_path / "out"))().table
    assert {column.key for column in table.columns} >= {"criterion", "seed", "group", "intra_fusion"}
    again = CompareFusion(**asked, overwrite=True)()
    assert "1 cell measured now" in again.lines[0]
    assert len(cells(tmp_path / "out")) == 5


def test_records_have_the_published_names_too(trained, tmp_path):
    out = str(tmp_path / "out")
    (record,) = CompareFusion(
        run=str(trained / "dense"), out=out, groups=(1,), sparsities=(0.5,), criterion="lamp", **FAST
    )().record
    assert cells(out) == [record]
    assert (record["group_idx"], record["importance_criteria"]) == (record["group_index"], "lamp")
    whole = record["original_model"]
    for way in ("original_model", "default_pruning", "intra_fusion"):
        made = record[way]
        assert made["accuracy_percent"] == 100 * made["accuracy"]
        assert made["inference_time_ms"] == {"cpu": 1000 * made["inference_time"]["cpu"]}
    for way in ("default_pruning", "intra_fusion"):
        made = record[way]
        assert made["parameter_reduction_percentage"] == pytest.approx(100 * (1 - 12506 / 24058))
        faster = 1 - made["inference_time"]["cpu"] / whole["inference_time"]["cpu"]
        assert made["speed_improvement"] == pytest.approx(100 * faster)
    assert not {"parameter_reduction_percentage", "speed_improvement"} & set(whole)
    (shown,) = FusionResults(folder=out)().record
    assert shown == record


def test_results_of_earlier_versions_get_the_published_names_when_shown(tmp_path):
    measured = {"parameters": 4, "macs": 1, "accuracy": 0.5, "inference_time": {"cpu": 0.1}}
    told = {"weights": "w", "criterion": "l1", "seed": 0, "settings": {}, "group_index": 2, "group_name": "g"}
    record = {
        **told,
        "sparsity": 0.5,
        "original_model": measured,
        "default_pruning": {**measured, "parameters": 3},
    }
    write_json(tmp_path / "fusion.json", [record])
    (shown,) = FusionResults(folder=str(tmp_path))().record
    assert (shown["group_idx"], shown["default_pruning"]["parameter_reduction_percentage"]) == (2, 25)
    assert shown["original_model"]["accuracy_percent"] == 50


@pytest.mark.parametrize("name", ["l1", "l2", "lamp", "taylor", "chip"])
def test_the_published_criteria_score_the_folded_model_and_ours_have_names_of_their_own(
    name, trained, tmp_path, monkeypatch
):
    asked, real = [], fusing.prune

    def prune(*args, **kwargs):
        asked.append((kwargs["criterion"], kwargs.get("norm")))
        return real(*args, **kwargs)

    monkeypatch.setattr(fusing, "prune", prune)
    for criterion in (name, f"unfolded_{name}"):
        CompareFusion(
            run=str(trained / "dense"),
            out=str(tmp_path),
            groups=(1,),
            sparsities=(0.5,),
            criterion=criterion,
            calibration=32,
            **FAST,
        )()
    published, own = asked[0], asked[2]
    norm = name if name in ("l1", "l2") else None
    assert published == (f"folded_{'norm' if norm else name}", norm)
    assert own == ("magnitude" if norm else name, norm)
    assert [record["criterion"] for record in cells(tmp_path)] == [name, f"unfolded_{name}"]


def test_results_of_the_unfolded_criteria_of_earlier_versions_do_not_count(trained, tmp_path):
    asked = {
        "run": str(trained / "dense"),
        "out": str(tmp_path),
        "groups": (2,),
        "sparsities": (0.3,),
        **FAST,
    }
    CompareFusion(**asked, criterion="lamp")()
    (record,) = cells(tmp_path)
    assert record["settings"].pop("scored") == "folded"
    write_json(tmp_path / "fusion.json", [record])
    assert "1 cell measured now" in CompareFusion(**asked, criterion="lamp")().lines[0]
    assert len(cells(tmp_path)) == 2


def test_models_are_saved_as_runs_that_compare_reads_at_once(secateur_command, trained, monkeypatch):
    dense = trained / "dense"
    words = ("compare-fusion", "--run", dense, "--groups", "1", "--sparsities", "0.3", "0.5", "--reconstruct")
    words = (*words, "--calibration", "64", *WORDS, "--out", "out")
    plain = secateur_command(*words)
    assert (plain.code, Path("out/models").exists()) == (0, False)
    with monkeypatch.context() as patch:
        patch.setattr(fusing, "evaluate", lambda *a, **k: pytest.fail("a cell was measured again"))
        saved = secateur_command(*words, "--save-models")
    assert (saved.code, saved.err) == (0, "")
    assert "0 cells measured now, 2 were there already" in saved.out
    assert "out/models: 6 models, each a run folder.\n" in saved.out
    before = snapshot(Path("out"))
    assert secateur_command(*words, "--save-models").code == 0
    assert snapshot(Path("out")) == before

    compared = secateur_command("compare", "out/models", dense, "--no-latency", "--format", "json")
    assert (compared.code, compared.err) == (0, "")
    rows = {row["label"]: row for row in json.loads(compared.out)}
    assert len(rows) == 7
    (models,) = Path("out/models").iterdir()
    data, run = Run.open(dense).load_data(), Run.open(dense)
    for record in cells("out"):
        for way in fusing.WAYS:
            name = f"{way}_group1_sparsity{record['sparsity']}"
            row = rows[name]
            assert (row["parameters"], row["macs"]) == (record[way]["parameters"], record[way]["macs"])
            model, _ = Run.open(models / name).load_model()
            assert row["top1"] == secateur.evaluate(model, data)["top1"]
            assert record[way]["accuracy"] == secateur.evaluate(model, data.subset(test=40))["top1"]
    way = models / "reconstruction_group1_sparsity0.5"
    entry = Run.open(way).history[-1]
    again = Prune(run=str(dense), out="again", **entry["config"])()
    assert again.record["top1"] == rows[way.name]["top1"]
    assert Run.open("again").weights == Run.open(way).weights
    assert Run.open(way).history[:-1] == run.history


def test_a_model_by_name_is_taken_in(secateur_command, trained):
    weights = trained / "dense/model.safetensors"
    words = (
        "--model",
        "convnet",
        "--data",
        "digits",
        "--weights",
        weights,
        "--groups=2",
        "--sparsities",
        "0.3",
        *WORDS,
    )
    assert secateur_command("compare-fusion", *words, "--out", "named").code == 0
    assert (
        secateur_command("compare-fusion", "--run", trained / "dense", *words[6:], "--out", "run").code == 0
    )
    for way in ("original_model", *list(fusing.WAYS)[:2]):
        (named,), (run,) = cells("named"), cells("run")
        assert named[way]["accuracy"] == run[way]["accuracy"]
    again = secateur_command("compare-fusion", *words, "--out", "named")
    assert "0 cells measured now" in again.out


def test_results_of_a_folder_are_one_table_and_a_chart(secateur_command, trained):
    words = (
        "compare-fusion",
        "--run",
        trained / "dense",
        *WORDS,
        "--groups",
        "1,2",
        "--sparsities",
        "0.3,0.5",
    )
    for criterion in ("l1", "lamp"):
        assert secateur_command(*words, "--criterion", criterion, "--out", f"all/{criterion}").code == 0
    write_json("all/other.json", {"no": "results"})
    shown = secateur_command("fusion-results", "all", "--charts", "drawn", "--format", "csv")
    assert (shown.code, shown.err) == (0, "")
    head, *rows = shown.out.strip().splitlines()
    assert len(rows) == 8
    assert head.startswith("criterion,group,sparsity,original_model,default_pruning,intra_fusion,")
    assert {path.name for path in Path("drawn").iterdir()} == {"fusion.svg", "fusion.png"}
    drawing = Path("drawn/fusion.svg").read_text(encoding="utf-8")
    assert all(
        word in drawing for word in ("group 1, 3.weight, lamp", "group 2, 0.weight, l1", "Dropped", "Fused")
    )
    records = json.loads(secateur_command("fusion-results", "all", "--format", "json").out)
    assert len(records) == 8


def test_it_is_a_step_of_a_recipe(trained, tmp_path):
    entry = {"do": "compare-fusion", "run": "dense", "out": "x", "groups": [1], "sparsities": [0.3], "p": 2}
    (step,) = parse_recipe({"secateur": 1, "steps": [entry]})
    assert step.options == {"p": 2}
    assert step.groups == (1,)
    with pytest.raises(InputError, match="groups"):
        parse_recipe({"secateur": 1, "steps": [{**entry, "groups": ["first"]}]})


MISTAKES = {
    "no model": (["--out", "x"], "--run RUN"),
    "no data": (["--model", "convnet", "--out", "x"], "--data"),
    "a run and a model": (["--run", "RUNS/dense", "--model", "resnet20", "--out", "x"], "not both"),
    "a run and weights": (["--run", "RUNS/dense", "--weights", "w.pt", "--out", "x"], "not both"),
    "no such run": (["--run", "RUNS/dens", "--out", "x"], "no run folder"),
    "no such file": (["--model", "convnet", "--data", "digits", "--weights", "no.pt", "--out", "x"], "no.pt"),
    "no such model": (["--model", "convnett", "--data", "digits", "--out", "x"], "convnet"),
    "no such group": (["--run", "RUNS/dense", "--groups", "0", "3", "--out", "x"], "no group 3"),
    "negative group": (["--run", "RUNS/dense", "--groups", "-1", "--out", "x"], "--groups"),
    "group that is no number": (["--run", "RUNS/dense", "--groups", "first", "--out", "x"], "--groups"),
    "all of a group": (["--run", "RUNS/dense", "--sparsities", "1.0", "--out", "x"], "--sparsities"),
    "percent": (["--run", "RUNS/dense", "--sparsities", "30", "--out", "x"], "--sparsities"),
    "criterion with a typo": (["--run", "RUNS/dense", "--criterion", "tailor", "--out", "x"], "taylor"),
    "criterion of weights": (["--run", "RUNS/dense", "--criterion", "force", "--out", "x"], "channel"),
    "device with a typo": (["--run", "RUNS/dense", "--devices", "cpuu", "--out", "x"], "cpuu"),
    "device without values": (["--run", "RUNS/dense", "--devices", "meta", "--out", "x"], "meta"),
    "option of no one": (["--run", "RUNS/dense", "--option", "q=2", "--out", "x"], "'q'"),
    "option of what is not asked for": (["--run", "RUNS/dense", "--rows", "2", "--out", "x"], "'rows'"),
    "value of an option": (["--run", "RUNS/dense", "--target", "all", "--out", "x"], "target"),
    "data of a run told again": (
        ["--run", "RUNS/dense", "--normalize", "imagenet", "--out", "x"],
        "leave normalize out",
    ),
    "something else in the way": (["--run", "RUNS/dense", "--out", "taken"], "something else"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence(mistake, secateur_command, trained, tmp_path):
    words, mentioned = MISTAKES[mistake]
    write_json(tmp_path / "taken/fusion.json", [{"mine": 1}])
    before = snapshot(trained)
    ran = secateur_command("compare-fusion", *[word.replace("RUNS", str(trained)) for word in words])
    assert (ran.code, ran.out) == (2, "")
    assert mentioned in ran.err
    assert re.fullmatch(r"secateur: [^\n]+\n", ran.err)
    assert snapshot(trained) == before
    assert not list(tmp_path.glob("x/*"))
    assert json.loads((tmp_path / "taken/fusion.json").read_text()) == [{"mine": 1}]


@pytest.mark.parametrize(
    ("folder", "mentioned"), [("missing", "no folder"), ("empty", "no results"), ("broken", "not valid JSON")]
)
def test_results_that_are_none(folder, mentioned, secateur_command, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/fusion.json").write_text('[{"model":')
    ran = secateur_command("fusion-results", folder)
    assert ran.code == 2
    assert mentioned in ran.err


@pytest.mark.parametrize(
    ("change", "cells"),
    [
        ({"sparsity": None}, 0),
        ({"original_model": {"parameters": 1, "macs": 1, "accuracy": "high", "inference_time": {}}}, 0),
        ({"original_model": {"parameters": 1, "macs": 1, "accuracy": math.nan, "inference_time": {}}}, 0),
        ({}, 1),
    ],
)
def test_files_that_hold_no_results_are_left_aside(change, cells, secateur_command, tmp_path):
    measured = {"parameters": 1, "macs": 1, "accuracy": 0.5, "inference_time": {"cpu": 0.1}}
    told = {"weights": "w", "criterion": "l1", "seed": 0, "settings": {}, "group_index": 0, "group_name": "g"}
    record = {**told, "sparsity": 0.5, "original_model": measured, "default_pruning": measured}
    (tmp_path / "good.json").write_text(json.dumps([record]))
    (tmp_path / "odd.json").write_text(json.dumps([{**record, "seed": 1, **change}]))
    (tmp_path / "broken.json").write_text('[{"model":')
    ran = secateur_command("fusion-results", str(tmp_path))
    assert ran.code == 0
    assert f"{1 + cells} cells of {1 + cells} file" in ran.out
    assert "Left aside: " in ran.out
    assert "broken.json" in ran.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--groups 1 2 --out x", "--groups 1 --groups 2 --out x"),
        ("--groups=1 2 --out x", "--groups=1 --groups 2 --out x"),
        ("--out x --groups 1,2 3", "--out x --groups 1,2 --groups 3"),
        ("--out x y", "--out x y"),
        ("--groups", "--groups"),
        ("--groups 1 --groups 2", "--groups 1 --groups 2"),
    ],
)
def test_lists_may_be_written_with_spaces(words, expected):
    assert list(repeated(words.split(), {"--groups"})) == expected.split()


def test_every_way_is_a_compensation_of_channels():
    for name in fusing.WAYS.values():
        COMPENSATIONS[name].function("channel")
