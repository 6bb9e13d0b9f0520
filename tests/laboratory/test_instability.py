"""The command instability: children of one training, what is kept of them, and that nothing is done twice."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import snapshot

import secateur
from secateur import connectivity
from secateur.connectivity import children as children_of
from secateur.core.errors import InputError, StoreError
from secateur.core.seeds import seed_of
from secateur.runs.run import Run
from secateur.steps import Instability, Prune, Retrain
from secateur.steps.recipe import parse_recipe
from secateur.training import loop, read_snapshot, train

TRAINING: dict[str, Any] = {
    "model": "convnet",
    "data": "digits",
    "train_subset": 100,
    "epochs": 3,
    "batch_size": 50,
    "lr": 0.1,
}
MEASURED = {"points": 3, "samples": 20, "batches": 1}
WORDS = [
    word
    for name, value in {**TRAINING, **MEASURED}.items()
    for word in (f"--{name.replace('_', '-')}", str(value))
]
MOMENTS = (0, 3)
HERE = ("seconds", "environment", "command")


def step(out: Path | str, **more: Any) -> Instability:
    return Instability(**{**TRAINING, **MEASURED, "at": ("0it", "50%"), "out": str(out), **more})


def cells(folder: Path | str) -> list[dict[str, Any]]:
    return json.loads((Path(folder) / "instability.json").read_text(encoding="utf-8"))


def told(folder: Path | str) -> list[dict[str, Any]]:
    """The cells without what depends on when and where."""
    return [{key: value for key, value in cell.items() if key not in HERE} for cell in cells(folder)]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep with two children at each of two moments; tests must not change it."""
    folder = tmp_path_factory.mktemp("swept") / "out"
    step(folder)()
    return folder


def weights(folder: Path, k: int, number: int, masked: str = "dense") -> dict[str, torch.Tensor]:
    return secateur.load(folder / f"children/{masked}/{k}-{number}/model.safetensors").state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_cells_are_paths_between_children(swept):
    data = secateur.load_data("digits", subset=(100, None))
    for cell, k in zip(cells(swept), MOMENTS, strict=True):
        assert (cell["k"], cell["pair"], cell["total"], cell["masks"]) == (k, [0, 1], 6, None)
        one, other = (secateur.load(swept / f"children/dense/{k}-{i}/model.safetensors") for i in (0, 1))
        rows = connectivity.path(one, other, data, batch_size=50, **MEASURED)
        assert cell["rows"] == rows
        assert cell["barrier"] == connectivity.barrier(rows)
        assert cell["statistics"] == "estimated on 1 training batches of 50"


@pytest.mark.parametrize("k", MOMENTS)
def test_a_child_is_the_training_from_there_on_in_another_order(swept, k):
    data = secateur.load_data("digits", subset=(100, None))
    for number in (0, 1):
        model = secateur.build("convnet", num_classes=10, input_shape=data.input_shape)
        model.load_state_dict(read_snapshot(swept / "dense", k))
        how = {name: TRAINING[name] for name in ("epochs", "batch_size", "lr")}
        train(model, data, **how, start_at=f"{k}it", seed=seed_of("child", 0, k, number))
        assert same(model.state_dict(), weights(swept, k, number))
    assert not same(weights(swept, k, 0), weights(swept, k, 1))


def test_the_table_has_a_row_for_each_moment(swept):
    outcome = step(swept)()
    rows = outcome.table.rows
    assert [(row["k"], row["share"], row["pairs"]) for row in rows] == [(0, 0.0, 1), (3, 0.5, 1)]
    for row, cell in zip(rows, cells(swept), strict=True):
        assert row["test"] == cell["barrier"]["test_error"]
        assert row["test_spread"] is None
        assert row["train_ends"] == (cell["rows"][0]["train_error"] + cell["rows"][-1]["train_error"]) / 2
        assert row["stable"] == ("yes" if connectivity.is_stable(cell["barrier"]) else "no")


def test_the_second_call_does_nothing(swept, monkeypatch, secateur_command):
    before = snapshot(swept)
    for name in ("train", "read_snapshot"):
        monkeypatch.setattr(children_of, name, lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(connectivity, "path", lambda *a, **k: pytest.fail("measured again"))
    ran = secateur_command("instability", *WORDS, "--at", "0it", "50%", "--out", swept)
    assert (ran.code, ran.err) == (0, "")
    assert "0 pairs measured now, 2 were there already" in ran.out
    assert snapshot(swept) == before


class Kill(BaseException):
    """Ends a process, as far as a test can."""


def test_killed_anywhere_it_ends_as_if_undisturbed(swept, tmp_path, monkeypatch):
    """Every second step of gradient descent is the last of its process: in the first training and in children."""
    out, taken, learn = tmp_path / "out", [0], loop._learn

    def dying(*arguments: Any) -> Any:
        taken[0] += 1
        if taken[0] % 3 == 0:
            raise Kill
        return learn(*arguments)

    monkeypatch.setattr(loop, "_learn", dying)
    deaths = 0
    while True:
        try:
            step(out, checkpoint_every="1it")()
            break
        except Kill:
            deaths += 1
            assert deaths < 40
    assert deaths > 5
    assert told(out) == told(swept)
    for k in MOMENTS:
        assert same(read_snapshot(out / "dense", k), read_snapshot(swept / "dense", k))
        for number in (0, 1):
            assert same(weights(out, k, number), weights(swept, k, number))
    assert not list(out.rglob("checkpoint*"))


def test_killed_between_cells_only_the_rest_is_measured(swept, tmp_path, monkeypatch):
    out, real, measured = tmp_path / "out", connectivity.path, []

    def dying(*arguments: Any, **options: Any) -> Any:
        measured.append(1)
        if len(measured) == 2:
            raise Kill
        return real(*arguments, **options)

    monkeypatch.setattr(connectivity, "path", dying)
    with pytest.raises(Kill):
        step(out)()
    assert [cell["k"] for cell in cells(out)] == [0]
    step(out)()
    assert len(measured) == 3
    assert told(out) == told(swept)


def test_more_children_and_moments_are_added(swept, tmp_path):
    out = tmp_path / "out"
    step(out, at=("50%",))()
    first = cells(out)
    digest = Run.open(out / "dense").weights
    outcome = step(out, at=("50%", "0it", "3it"), children=3)()  # 3it is 50 %
    assert Run.open(out / "dense").weights == digest
    assert [(cell["k"], cell["pair"]) for cell in outcome.record] == [
        (k, pair) for k in (0, 3) for pair in ([0, 1], [0, 2], [1, 2])
    ]
    assert cells(out)[0] == first[0]
    assert "5 pairs measured now, 1 were there already" in outcome.lines[0]
    assert [cell for cell in told(out) if cell["pair"] == [0, 1]] == told(swept)[::-1]
    (row, _), found = outcome.table.rows, [cell["barrier"]["test_error"] for cell in outcome.record[:3]]
    assert row["test"] == pytest.approx(sum(found) / 3)
    assert row["test_spread"] == pytest.approx(float(torch.tensor(found, dtype=torch.float64).std()))
    other = step(out, statistics="interpolated")()
    assert "2 pairs measured now" in other.lines[0]
    assert other.record[0]["statistics"] == "interpolated"


def test_tickets_are_cut_when_they_part_and_stay_cut(swept, tmp_path):
    out = tmp_path / "out"
    step(out)()
    Prune(run=str(out / "dense"), amount=0.7, evaluate=False, out=str(tmp_path / "cut"))()
    masks = secateur.load_masks(tmp_path / "cut/model.safetensors")
    outcome = step(out, masks=str(tmp_path / "cut"))()
    assert "2 pairs measured now" in outcome.lines[0]
    assert {cell["cut"] for cell in outcome.record} == {masks.sparsity}
    folder = outcome.record[0]["masks"][:8]
    for k in MOMENTS:
        one, other = (weights(out, k, number, folder) for number in (0, 1))
        assert all(bool((one[name][~mask] == 0).all()) for name, mask in masks.items())
        assert not same(one, other)
        assert not same(one, weights(out, k, 0))
    assert told(out)[:2] == told(swept)
    drawing = (out / "instability.svg").read_text(encoding="utf-8")
    assert all(series in drawing for series in ("dense, test", "70 % cut, train"))


def test_other_settings_do_not_mix(swept, tmp_path):
    before = snapshot(swept)
    with pytest.raises(StoreError, match="holds another run"):
        step(swept, lr=0.05)()
    assert snapshot(swept) == before
    out = tmp_path / "out"
    step(out, at=("0it",), lr=0.05)()
    again = step(out, at=("0it",), overwrite=True)()
    assert "1 pairs measured now" in again.lines[0]
    assert told(out) == told(swept)[:1]


def test_what_has_gone_on_is_not_trained_over(tmp_path):
    out = tmp_path / "out"
    step(out, at=("0it",))()
    Retrain(run=str(out / "dense"), epochs=1, lr=0.01)()
    assert "1 were there already" in step(out, at=("0it",))().lines[0]
    before = snapshot(out)
    with pytest.raises(InputError, match="has gone on to train → retrain and lacks snapshots"):
        step(out)()
    assert snapshot(out) == before


def test_it_is_a_step_of_a_recipe():
    entry = {"do": "instability", **TRAINING, "out": "x", "at": ["0it", "1ep"], "children": 3}
    (found,) = parse_recipe({"secateur": 1, "steps": [entry]})
    assert (found.at, found.children) == (("0it", "1ep"), 3)
    with pytest.raises(InputError, match="eave start_at out"):
        parse_recipe({"secateur": 1, "steps": [{**entry, "start_at": "1ep"}]})


MISTAKES = {
    "a moment past the end": (
        ["--at", "0it", "3ep"],
        "Children can't part at 3ep: the training ends after 6",
    ),
    "no moment": (["--at", "soon"], "'soon' is no span of training"),
    "one child": (["--children", "1"], "--children"),
    "a method": (
        ["--method", "gradual", "--amount", "0.5"],
        "Leave --method out, which is no setting of this step",
    ),
    "snapshots": (["--snapshots", "1it"], "Leave --snapshots out"),
    "a moment to start at": (["--start-at", "1ep"], "Leave --start-at out"),
    "no such masks": (["--masks", "nowhere"], "There is no run folder nowhere"),
    "a run without masks": (["--masks", "SWEPT/dense"], "has no masks"),
    "two points": (["--points", "2"], "--points"),
    "statistics with a typo": (["--statistics", "interpolate"], "interpolated"),
    "something else in the way": (["--out", "taken"], "something else than results of secateur instability"),
    "no such model": (["--model", "convnett"], "convnet"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence(mistake, secateur_command, swept, tmp_path):
    words, mentioned = MISTAKES[mistake]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/instability.json").write_text('[{"mine": 1}]')
    given = [word.replace("SWEPT", str(swept)) for word in words]
    ran = secateur_command("instability", *WORDS, "--out", "x", *given)
    assert (ran.code, ran.out) == (2, "")
    assert mentioned in ran.err
    assert re.fullmatch(r"secateur: [^\n]+\n", ran.err)
    assert not list(tmp_path.glob("x/*"))
    assert {path.name for path in (tmp_path / "taken").iterdir()} == {"instability.json"}
