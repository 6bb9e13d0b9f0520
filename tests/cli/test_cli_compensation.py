"""Compensations from the command line: what they take, what they tell, and mistakes."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
import torch
import typer
from folders import snapshot

import secateur
from secateur.cli.app import app
from secateur.compensation import COMPENSATIONS
from secateur.criteria import CRITERIA, Calibration
from secateur.runs.run import Run
from secateur.sparsity.granularity import parse
from secateur.sparsity.masks import Masks
from secateur.steps import Prune, Train
from secateur.steps.cut_records import plain
from secateur.steps.prune import samples


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one trained run, `dense`; tests must not change it."""
    root = tmp_path_factory.mktemp("runs")
    Train(model="convnet", data="digits", epochs=1, batch_size=256, out="dense")(root)
    return root


def values(folder) -> dict[str, torch.Tensor]:
    return Run.open(folder).load_model()[0].state_dict()


CUTS = {
    "channel": {"granularity": "channel", "amount": 0.3, "scope": "local"},
    "weight": {"granularity": "weight", "amount": 0.6},
    "n:m": {"granularity": "2:4"},
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name, each in COMPENSATIONS.items()
        for kind, cut in CUTS.items()
        if parse(cut["granularity"]).elements & each.functions.keys()
    ],
)
def test_the_command_does_what_the_call_does(name, kind, secateur_command, trained):
    if name == "fuse":
        pytest.importorskip("ot")
    words = [word for key, value in CUTS[kind].items() for word in (f"--{key}", value)]
    words += ["--compensation", name, "--calibration", "200", "--seed", "3", "--no-evaluate"]
    ran = secateur_command("prune", trained / "dense", *words, "--out", "cut")
    assert (ran.code, ran.err) == (0, "")
    run, needs_data = Run.open(trained / "dense"), COMPENSATIONS[name].needs_data
    data, model = run.load_data(), run.load_model()[0]
    batches = list(samples(data, 200, 3)) if needs_data else None
    expected = secateur.prune(model, data.example(2), compensation=name, data=batches, seed=3, **CUTS[kind])
    made = values("cut")
    assert all(torch.equal(made[key], value) for key, value in expected.model.state_dict().items())
    result = Run.open("cut").history[-1]["result"]
    if needs_data:
        inputs = Calibration(samples(data, 200, 3))
        assert result["calibration"] == {"seed": 3, "samples": 200, "sha256": inputs.digest()}
        assert set(result["compensated"]["layers"]) == set(expected.compensated["layers"])
    else:
        assert "calibration" not in result
    if name == "fuse":
        told = result["compensated"]["groups"]
        assert [(group["kept"], group["of"]) for group in told.values()] == [(11, 16), (22, 32), (45, 64)]


def test_options_of_a_compensation_stand_beside_the_others(secateur_command, trained):
    words = ("--granularity", "channel", "--amount", "0.5", "--no-evaluate", "--calibration", "64")
    words += ("--compensation", "reconstruct")
    cuts = {
        "a": (),
        "b": ("--damping", "1e-1"),
        "c": ("--option", "damping=1e-1"),
        "d": ("--damping", "0.001"),
    }
    for out, more in cuts.items():
        assert secateur_command("prune", trained / "dense", *words, *more, "--out", out).code == 0
    a, b, c, d = (values(out)["3.weight"] for out in cuts)
    assert torch.equal(b, c)
    assert torch.equal(a, d)
    assert not torch.equal(a, b)
    assert secateur_command("run", "b/recipe.yaml", "--root", "again").code == 0
    assert torch.equal(values("again/b")["3.weight"], b)
    other = secateur_command("prune", trained / "dense", *words, "--damping", "0.2", "--out", "b")
    assert "--overwrite" in other.err


def test_scores_can_count_what_a_unit_costs(secateur_command, trained):
    words = ("--granularity", "channel", "--amount", "0.4", "--no-evaluate", "--per-cost", "--out", "cut")
    assert secateur_command("prune", trained / "dense", *words).code == 0
    run = Run.open(trained / "dense")
    expected = secateur.prune(
        run.load_model()[0], torch.zeros(2, 1, 8, 8), granularity="channel", amount=0.4, per_cost=True
    )
    kept = {group["name"]: group["kept"] for group in Run.open("cut").history[-1]["result"]["groups"]}
    assert kept == {name: expected.kept[name] for name in kept}


@pytest.mark.parametrize("kind", CUTS)
@pytest.mark.parametrize("correct", [True, False])
def test_corrections_are_asked_for_or_not(correct, kind, secateur_command, trained):
    words = [word for key, value in CUTS[kind].items() for word in (f"--{key}", value)]
    words += ["--criterion", "taylor", "--calibration", "64", "--no-evaluate"]
    flag = "--correct" if correct else "--no-correct"
    assert secateur_command("prune", trained / "dense", *words, flag, "--out", "cut").code == 0
    run = Run.open(trained / "dense")
    data, model = run.load_data(), run.load_model()[0]
    batches = list(samples(data, 64, 0))
    expected = secateur.prune(
        model, data.example(2), criterion="taylor", data=batches, correct=correct, **CUTS[kind]
    )
    made = values("cut")
    assert all(torch.equal(made[key], value) for key, value in expected.model.state_dict().items())
    assert ("corrected" in Run.open("cut").history[-1]["result"].get("compensated", {})) is correct


def test_a_correction_alone_looks_at_samples(secateur_command, trained):
    words = ("--granularity", "channel", "--amount", "0.5", "--no-evaluate", "--calibration", "64")
    for out, more in {"plain": (), "corrected": ("--correct",)}.items():
        assert secateur_command("prune", trained / "dense", *words, *more, "--out", out).code == 0
    results = [Run.open(out).history[-1]["result"] for out in ("plain", "corrected")]
    assert "calibration" not in results[0]
    assert results[1]["calibration"]["samples"] == 64
    assert results[1]["compensated"]["corrected"] > 0
    assert not torch.equal(values("plain")["4.running_mean"], values("corrected")["4.running_mean"])


def test_what_is_left_alone_is_told(secateur_command, trained, monkeypatch):
    def nothing(case):
        return {"left": {"0.weight": "it is a test"}, "tensor": torch.ones(2), "nan": float("nan")}

    monkeypatch.setitem(COMPENSATIONS["drop"].functions, "units", nothing)
    words = ("--granularity", "channel", "--amount", "0.4", "--no-evaluate", "--out", "cut")
    ran = secateur_command("prune", trained / "dense", *words)
    assert "Nothing made up for what went of 0.weight: it is a test.\n" in ran.out
    told = Run.open("cut").history[-1]["result"]["compensated"]
    assert told["left"] == {"0.weight": "it is a test"}
    assert told["nan"] is None
    assert "tensor" not in told


def test_what_is_no_json_is_left_out():
    masks = Masks({"a": torch.ones(2, dtype=torch.bool)})
    value = {"a": [1, torch.ones(1), "x"], "m": masks, "n": {3: (float("inf"), True, None)}, "s": {1, 2}}
    assert plain(value) == {"a": [1, "x"], "n": {"3": [None, True, None]}}
    json.dumps(plain(value), allow_nan=False)


def test_the_digest_of_calibration_data():
    x, y = torch.arange(6.0).reshape(2, 3), torch.tensor([1, 0])
    batches = [(x, y), (x[:1], None)]
    expected = hashlib.sha256()
    for tensor in (x, y, x[:1]):
        expected.update(f" {tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.numpy().tobytes())
    expected.update(b"None")
    assert Calibration(batches).digest() == expected.hexdigest()
    others = [
        [(x, y)],
        [(x[:1], None), (x, y)],
        [(x + 1e-6, y), (x[:1], None)],
        [(x.reshape(3, 2), y), (x[:1], None)],
        [(x, 1 - y), (x[:1], None)],
        [(x.double(), y), (x[:1], None)],
        [({"x": x, "mask": y}, y), (x[:1], None)],
    ]
    digests = {Calibration(each).digest() for each in [batches, *others]}
    assert len(digests) == len(others) + 1
    assert Calibration(iter(batches)).digest() == Calibration(batches).digest()
    assert Calibration(batches).to_json()["samples"] == 3


MISTAKES = {
    "unknown compensation": (["--compensation", "fus"], "fuse"),
    "not for weights": (["--compensation", "fuse", "--granularity", "weight"], "granularity weight"),
    "option of no one": (["--option", "mass=1"], "mass"),
    "option of another": (["--p", "2"], "'p'"),
    "option of another kind": (["--compensation", "fuse", "--p", "two"], "a number"),
    "option out of range": (["--compensation", "fuse", "--p", "-1"], "order of a norm"),
    "option with a typo": (["--compensation", "fuse", "--target", "clusters"], "most_important"),
    "damping that is no number": (["--compensation", "reconstruct", "--damping", "high"], "damping"),
    "cost of weights": (["--granularity", "weight", "--per-cost"], "per_cost"),
    "no samples": (["--compensation", "reconstruct", "--calibration", "0"], "--calibration"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence(mistake, secateur_command, trained, tmp_path):
    if mistake.startswith("option"):
        pytest.importorskip("ot")
    words, mentioned = MISTAKES[mistake]
    before = snapshot(tmp_path), snapshot(trained)
    cut = ("prune", trained / "dense", "--granularity", "channel", "--amount", "0.5", "--out", "x")
    ran = secateur_command(*cut, *words)
    assert (ran.code, ran.out) == (2, "")
    assert mentioned in ran.err
    assert re.fullmatch(r"secateur: [^\n]+\n", ran.err)
    assert (snapshot(tmp_path), snapshot(trained)) == before


def test_every_option_is_a_word_of_its_own_with_its_owners():
    """No option of a criterion or a compensation hides a setting, and the help names every owner."""
    told = Prune.extra_options()
    assert not set(told) & set(Prune.model_fields)
    owned = [(criterion.name, criterion.options) for criterion in CRITERIA.values()]
    owned += [
        (each.name, each.options(kind)) for each in COMPENSATIONS.values() for kind in each.granularities
    ]
    for name, options in owned:
        assert all(name in told[option] for option in options)
    assert told["p"] == "option of the compensation fuse [default: 1.0]"
    assert "obs (default 0.01)" in told["damping"]
    assert "reconstruct of units (default 0.001)" in told["damping"]
    flags = [flag for entry in typer.main.get_command(app).commands["prune"].params for flag in entry.opts]
    assert len(set(flags)) == len(flags)


def test_compensations_are_listed(secateur_command):
    rows = json.loads(secateur_command("compensations", "--format", "json").out)
    listed = {(row["name"], kind) for row in rows for kind in row["granularities"].split(", ")}
    assert listed == {(name, kind) for name, each in COMPENSATIONS.items() for kind in each.granularities}
    text = secateur_command("compensations").out
    assert all(name in text for name in COMPENSATIONS)
