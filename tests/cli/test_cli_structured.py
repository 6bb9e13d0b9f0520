"""Channels and heads from the command line: the whole road, budgets, rounds, the report, and mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from folders import snapshot

import secateur
from secateur.graph.cost import parameters
from secateur.graph.cut import Cut
from secateur.graph.outline import alike, through, unit_parameters
from secateur.report.content import removed
from secateur.runs.run import Run
from secateur.steps import Train
from secateur.steps.recipe import parse_recipe, read_recipe

ROOT = Path(__file__).parents[2]
WIDTHS = {"0.weight": 16, "3.weight": 32, "7.weight": 64}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one trained run, `dense`; tests must not change it."""
    root = tmp_path_factory.mktemp("runs")
    Train(model="convnet", data="digits", epochs=1, batch_size=256, out="dense")(root)
    return root


def convnet() -> torch.nn.Module:
    return secateur.build("convnet", num_classes=10, input_shape=(1, 8, 8))


def encoder() -> torch.nn.Module:
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 16), torch.nn.TransformerEncoder(layer, 2), torch.nn.Linear(16, 10)
    )


def channels(model: torch.nn.Module) -> list[int]:
    return [module.out_channels for module in model.modules() if isinstance(module, torch.nn.Conv2d)]


def test_the_whole_road(secateur_command, trained, tmp_path):
    run, dense = secateur_command, trained / "dense"
    cut = run(
        "prune", dense, "--granularity", "channel", "--amount", "0.5", "--scope", "local", "--out", "half"
    )
    assert (cut.code, cut.err) == (0, "")
    before, after = (json.loads(run("inspect", folder, "--format", "json").out) for folder in (dense, "half"))
    assert f"{before['parameters']:,} → {after['parameters']:,} parameters" in cut.out
    assert f"{before['macs']:,} → {after['macs']:,} MACs" in cut.out
    assert "removed 50.00 % of the channels, verified to " in cut.out
    assert run("retrain", "half", "--epochs", "1", "--lr", "0.02").code == 0
    model, masks = Run.open("half").load_model()
    assert channels(model) == [8, 16, 32]
    assert not masks
    history = json.loads((tmp_path / "half/run.json").read_text())["history"]
    assert [entry["do"] for entry in history] == ["train", "prune", "retrain"]
    result = history[1]["result"]
    assert result["parameters"] == [before["parameters"], after["parameters"]]
    assert result["macs"] == [before["macs"], after["macs"]]
    assert result["verification"]["error"] < 1e-9
    assert [(group["name"], group["units"], group["kept"]) for group in result["groups"]] == [
        (name, width, width // 2) for name, width in WIDTHS.items()
    ]
    metrics = json.loads(run("eval", "half", "--format", "json").out)
    assert metrics["top1"] == pytest.approx(history[-1]["result"]["top1"])
    rows = json.loads(run("compare", dense, "half", "--no-latency", "--format", "json").out)
    assert [row["parameters"] for row in rows] == [before["parameters"], after["parameters"]]
    assert rows[1]["bytes_dense"] < 0.3 * rows[0]["bytes_dense"]
    reported = run(
        "report", dense, "half", "--batch-sizes", "1", "--out", "report.html", "--charts", "charts"
    )
    assert reported.code == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What was cut out" in page
    assert re.search(r"24\.06 k → 6\.274 k \(26\.1.%\)", page)
    assert re.search(r"599\.7 k → 152\.4 k \(25\.4.%\)", page)
    assert re.search(r"Latency, batch 1.*?[\d.]+ ms → [\d.]+ ms \([\d.]+.%\)", page, re.DOTALL)
    assert re.search(r"73\.9\s%\sof\sthe\sparameters\sremoved", page)
    assert {"groups.svg", "groups.png"} <= {path.name for path in (tmp_path / "charts").iterdir()}


def test_a_report_of_masks_speaks_of_no_groups(secateur_command, trained, tmp_path):
    assert secateur_command("prune", trained / "dense", "--amount", "0.5", "--out", "cut").code == 0
    assert secateur_command("report", trained / "dense", "cut", "--no-latency", "--out", "r.html").code == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "What was cut out" not in page
    assert "cutting channels" not in page


def test_the_recipe_of_a_smaller_run_makes_it_again(secateur_command, trained):
    words = ("--granularity", "channel", "--budget", "macs=0.5", "--round-to", "4", "--max-amount", "0.6")
    assert secateur_command("prune", trained / "dense", *words, "--out", "made").code == 0
    assert secateur_command("run", "made/recipe.yaml", "--root", "again").code == 0
    assert Path("again/made/model.safetensors").read_bytes() == Path("made/model.safetensors").read_bytes()
    again = secateur_command("prune", trained / "dense", *words, "--out", "made")
    assert "already" in again.out


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
def test_a_budget_is_met(secateur_command, trained, kind, scope):
    words = ("--granularity", "channel", "--budget", f"{kind}=0.4", "--scope", scope, "--no-evaluate")
    assert secateur_command("prune", trained / "dense", *words, "--out", "cut").code == 0
    before, after = Run.open("cut").history[-1]["result"][{"macs": "macs", "params": "parameters"}[kind]]
    assert after / before == pytest.approx(0.4, abs=0.04)


def test_limits_hold(secateur_command, trained):
    words = ("--granularity", "channel", "--amount", "0.9", "--max-amount", "0.5", "--round-to", "8")
    assert secateur_command("prune", trained / "dense", *words, "--no-evaluate", "--out", "cut").code == 0
    model, _ = Run.open("cut").load_model()
    assert channels(model) == [8, 16, 32]


def test_one_layer_or_group_alone_and_one_kept(secateur_command, trained):
    words = ("--granularity", "channel", "--amount", "0.5", "--no-evaluate")
    secateur_command(
        "prune", trained / "dense", *words, "--scope", "local", "--layers", "3.weight", "--out", "one"
    )
    assert channels(Run.open("one").load_model()[0]) == [16, 16, 64]  # not what 0 makes and 3 reads
    secateur_command("prune", trained / "dense", *words, "--scope", "local", "--keep", "0", "--out", "kept")
    assert channels(Run.open("kept").load_model()[0]) == [16, 16, 32]


def test_layers_have_amounts_of_their_own(secateur_command, trained, tmp_path):
    words = ("--granularity", "channel", "--no-evaluate", "--amount", "0=0.25", "--amount", "*=0.5")
    assert secateur_command("prune", trained / "dense", *words, "--out", "own").code == 0
    assert channels(Run.open("own").load_model()[0]) == [12, 16, 32]
    assert Run.open("own").history[-1]["config"]["amount"] == {"0": 0.25, "*": 0.5}
    assert "holds this" in secateur_command("prune", trained / "dense", *words, "--out", "own").out
    steps = [{"do": "prune", "run": str(trained / "dense"), "amount": {3: 0.5, 0: 0.75}, "out": "sparse"}]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"secateur": 1, "steps": steps}))
    assert secateur_command("run", tmp_path / "own.yaml").code == 0
    masks = Run.open("sparse").load_model()[1]
    assert {name: 1 - float(mask.float().mean()) for name, mask in masks.items()} == {
        "0.weight": 0.75,
        "3.weight": 0.5,
    }


@pytest.mark.parametrize("option", ["--amount", "--criterion"])
def test_dead_channels_go(option, secateur_command, trained):
    ran = secateur_command(
        "prune",
        trained / "dense",
        "--granularity",
        "channel",
        option,
        "dead",
        "--no-evaluate",
        "--out",
        "clean",
    )
    assert ran.code == 0
    assert "dead units went" in ran.out
    assert Run.open("clean").history[-1]["config"]["amount"] == "dead"


def test_the_units_that_go_are_named(secateur_command, trained):
    words = ("--granularity", "channel", "--no-evaluate", "--unit", "0=[1,2]", "--unit", "3.weight=5")
    assert secateur_command("prune", trained / "dense", *words, "--out", "named").code == 0
    small, whole = (Run.open(run).load_model()[0] for run in ("named", trained / "dense"))
    assert channels(small) == [14, 31, 64]
    assert torch.equal(small[0].weight, whole[0].weight[[0, *range(3, 16)]])


def test_masks_get_smaller_with_the_model(secateur_command, trained):
    assert secateur_command("prune", trained / "dense", "--amount", "0.5", "--out", "sparse").code == 0
    words = ("--granularity", "channel", "--amount", "0.25", "--scope", "local")
    assert secateur_command("prune", "sparse", *words, "--out", "both").code == 0
    assert secateur_command("retrain", "both", "--epochs", "1").code == 0
    model, masks = Run.open("both").load_model()
    weights = dict(model.named_parameters())
    assert channels(model) == [12, 24, 48]
    assert all(masks[name].shape == weights[name].shape for name in masks)
    assert all(bool((weights[name][~mask] == 0).all()) for name, mask in masks.items())
    assert masks.pruned > 0


def test_rounds_count_from_the_model_they_are_given(secateur_command, trained, tmp_path):
    """A loop over rounds; the accuracy chart places each at all that was removed so far."""
    recipe = {
        "secateur": 1,
        "steps": [
            {"do": "train", "model": "convnet", "data": "digits", "epochs": 1, "batch_size": 256, "out": "dense"},
            {
                "for": {"round": [{"before": "dense", "after": "one"}, {"before": "one", "after": "two"}]},
                "steps": [
                    {"do": "prune", "run": "{before}", "granularity": "channel", "scope": "local"}
                    | {"amount": 0.5, "out": "{after}"},
                    {"do": "retrain", "run": "{after}", "train_subset": 300},
                ],
            },
        ],
    }  # fmt: skip
    (tmp_path / "rounds.yaml").write_text(yaml.safe_dump(recipe))
    assert secateur_command("run", "rounds.yaml").code == 0
    two = Run.open("two")
    assert channels(two.load_model()[0]) == [4, 8, 16]
    first, second = (entry["result"]["parameters"] for entry in two.history if entry["do"] == "prune")
    assert first[1] == second[0]
    assert removed(two.history) == pytest.approx(1 - second[1] / first[0])
    assert secateur_command("report", "dense", "two", "--no-latency").code == 0
    page = Path("report.html").read_text(encoding="utf-8")
    assert "16 \\u2192 4" in page  # in the chart's data
    again = secateur_command("run", "rounds.yaml")
    assert all("already" in line for line in again.out.splitlines())


def test_groups_are_shown(secateur_command, trained):
    shown = secateur_command("inspect", trained / "dense", "--groups")
    assert shown.code == 0
    for name, width in WIDTHS.items():
        assert f"{name}: {width} channels" in shown.out
    assert "[32]×16×3×3" in shown.out
    assert "stays, because it is an output of the model" in shown.out
    found = json.loads(secateur_command("inspect", trained / "dense", "--groups", "--format", "json").out)
    free = [group for group in found["groups"] if not group["lock"]]
    assert {group["group"]: group["units"] for group in free} == WIDTHS
    table = secateur_command("inspect", trained / "dense", "--groups", "--format", "csv").out
    assert len(table.splitlines()) == 1 + len(found["groups"])


@pytest.mark.parametrize(("make", "shape"), [(convnet, (1, 8, 8)), (encoder, (5, 3))])
def test_what_is_said_to_go_with_a_unit_goes(make, shape):
    groups = secateur.analyze(make(), torch.randn(2, *shape))
    whole = parameters(Cut.of(groups.coupling, []))
    assert len(groups.free) >= 3
    for group in groups.free:
        for unit in range(group.units):
            cut = Cut(groups.coupling, group.roots[unit : unit + 1])
            assert whole - parameters(cut) == unit_parameters(groups.coupling, group)


def test_alike_tensors_are_told_once():
    groups = secateur.analyze(encoder(), torch.randn(2, 5, 3))
    stream = next(group for group in groups.free if len(group.members) > 10)
    lines = through(groups.coupling, stream)
    assert "*.layers.*.linear1.weight  32×[16]  ×2" in lines
    assert len(lines) < len(stream.members) / 1.5
    assert alike([("conv1.weight (f.py:1)", "[4]"), ("conv2.weight (f.py:1)", "[4]")]) == [
        "conv1.weight (f.py:1)  [4]",
        "conv2.weight (f.py:1)  [4]",
    ]


CHANNELS = ["prune", "RUNS/dense", "--granularity", "channel", "--out", "x"]
MISTAKES = {
    "neither amount nor budget": ([], "how much"),
    "amount and budget": (["--amount", "0.5", "--budget", "macs=0.5"], "not both"),
    "amount above 1": (["--amount", "1.5"], "1.5"),
    "amount safe": (["--amount", "safe"], "safe"),
    "scope of weights": (["--amount", "0.5", "--scope", "erk"], "erk"),
    "unknown budget": (["--budget", "flops=0.5"], "flops"),
    "two budgets": (["--budget", "macs=0.5", "--budget", "params=0.5"], "one cost"),
    "an amount of no layer": (["--amount", "conv9=0.5"], "conv9"),
    "an amount above 1": (["--amount", "0=1.5"], "1.5 of '0'"),
    "an amount and one by layer": (["--amount", "0=0.5", "--amount", "0.5"], "name=value"),
    "a unit that is not there": (["--unit", "0=[16]"], "0 to 15"),
    "a unit in words": (["--unit", "0=first"], "--unit"),
    "units and an amount": (["--unit", "0=1", "--amount", "0.5"], "amount"),
    "budget above 1": (["--budget", "macs=1.5"], "1.5"),
    "budget that is no number": (["--budget", "macs=half"], "--budget"),
    "budget without a value": (["--budget", "macs"], "name=value"),
    "budget out of reach": (["--budget", "macs=0.0001"], "can't be met"),
    "budget of weights": (["--granularity", "weight", "--budget", "macs=0.5"], "channel"),
    "rounding of weights": (["--granularity", "weight", "--amount", "0.5", "--round-to", "8"], "round_to"),
    "limit of weights": (["--granularity", "2:4", "--max-amount", "0.5"], "max_amount"),
    "roles of channels": (["--amount", "0.5", "--include", "all"], "include"),
    "no heads": (["--granularity", "head", "--amount", "0.5"], "heads"),
    "all kept": (["--amount", "0.5", "--keep", "*"], "nothing to prune"),
    "unknown layer": (["--amount", "0.5", "--layers", "conv9"], "conv9"),
    "rounded to nothing": (["--amount", "0.5", "--round-to", "0"], "--round-to"),
    "limit above 1": (["--amount", "0.5", "--max-amount", "2"], "--max-amount"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence(mistake, secateur_command, trained, tmp_path):
    words, mentioned = MISTAKES[mistake]
    before = snapshot(tmp_path), snapshot(trained)
    ran = secateur_command(*[word.replace("RUNS", str(trained)) for word in CHANNELS], *words)
    assert (ran.code, ran.out) == (2, "")
    assert mentioned in ran.err
    assert ran.err.startswith("secateur: ")
    assert len(ran.err.strip().splitlines()) == 1
    assert (snapshot(tmp_path), snapshot(trained)) == before


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_the_example_recipes_are_valid(path):
    assert read_recipe(path)


def test_values_are_filled_in_inside_mappings():
    steps = [
        {
            "for": {"left": [0.75, 0.5]},
            "steps": [
                {
                    "do": "prune",
                    "run": "a",
                    "out": "b",
                    "granularity": "channel",
                    "budget": {"macs": "{left}"},
                }
            ],
        }
    ]
    assert [step.budget for step in parse_recipe({"secateur": 1, "steps": steps})] == [
        {"macs": 0.75},
        {"macs": 0.5},
    ]


def test_units_are_scored_again_in_rounds(secateur_command, trained):
    dense = trained / "dense"
    words = ("--granularity", "channel", "--amount", "0.6", "--criterion", "fpgm", "--no-evaluate")
    words += ("--rounds", "3", "--schedule", "linear", "--max-amount", "0.75", "--out", trained / "rounds")
    cut = secateur_command("prune", dense, *words)
    assert (cut.code, cut.err) == (0, "")
    model, run = Run.open(dense).load_model()[0], Run.open(trained / "rounds")
    options = {"amount": 0.6, "rounds": 3, "schedule": "linear", "max_amount": 0.75, "criterion": "fpgm"}
    expected = secateur.prune(model, torch.zeros(2, 1, 8, 8), granularity="channel", **options)
    assert channels(run.load_model()[0]) == channels(expected.model)
    assert run.history[-1]["result"]["achieved"] == expected.achieved
    refused = secateur_command("prune", dense, *words[:-1], "x", "--rounds", "0")
    assert refused.code == 2


def test_whole_layers_and_criteria_of_gradients(secateur_command, tmp_path):
    run = secateur_command
    assert (
        run("import", "--model", "resnet20", "--data", "digits", "--no-evaluate", "--out", "dense").code == 0
    )
    words = ("--granularity", "layer", "--criterion", "taylor", "--calibration", "64", "--amount", "0.3")
    cut = run("prune", "dense", *words, "--no-evaluate", "--out", "short")
    assert (cut.code, cut.err) == (0, "")
    result = Run.open("short").history[-1]["result"]
    gone = [block["name"] for block in result["groups"] if not block["kept"]]
    assert result["achieved"] == pytest.approx(len(gone) / len(result["groups"]))
    parameters_left = json.loads(run("inspect", "short", "--format", "json").out)["parameters"]
    assert [parameters_left] == result["parameters"][1:]
    assert run("retrain", "short", "--train-subset", "64").code == 0
    assert run("report", "dense", "short", "--no-latency").code == 0
    other = run("prune", "dense", *words, "--seed", "1", "--no-evaluate", "--out", "short")
    assert "--overwrite" in other.err
