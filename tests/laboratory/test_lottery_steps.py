"""Lottery tickets as run folders: what levels hold, what a second call does, stops at any moment, mistakes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import snapshot
from kills import Fuse, started, survived, wait_for

import secateur
from secateur import run
from secateur.core.errors import InputError, StoreError
from secateur.lottery import STARTS
from secateur.runs.run import Run
from secateur.steps import Compare, Context, Lottery, Prune, Report, Retrain, Ticket, Train
from secateur.storage import model_files

DENSE: dict[str, Any] = {
    "model": "lenet300", "data": "digits", "train_subset": 100, "batch_size": 40, "epochs": 2, "lr": 0.1,
    "evaluate_every": "1it", "snapshots": ("2it",),
}  # fmt: skip
PRUNABLE = {"fc1.weight": 64 * 300, "fc2.weight": 300 * 100, "fc3.weight": 1000}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two dense runs that differ in their seeds; tests must not change it."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        Train(out=f"dense-{seed}", seed=seed, **DENSE)(root)
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "root"))


@pytest.fixture(scope="module")
def searched(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after a search with every start, on both runs; tests must not change it."""
    root = Path(shutil.copytree(trained, tmp_path_factory.mktemp("searched") / "root"))
    outcome = everything()(root)
    (root / "records.json").write_text(json.dumps(outcome.record))
    return root


def everything(**changes: Any) -> Lottery:
    settings = {"levels": 2, "rate": 0.4, "rewind_to": "2it", "finetune": 1, "layer_rates": {"output": 0.5}}
    runs = ("dense-0", "dense-1")
    return Lottery(runs=runs, out="lot", starts=tuple(STARTS), **{**settings, **changes})


def search(**changes: Any) -> Lottery:
    return Lottery(**{"runs": ("dense-0",), "out": "lot", "levels": 2, "rate": 0.4, **changes})


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return model_files.read(folder / "model.safetensors").state


@pytest.mark.parametrize("start", STARTS)
def test_levels_are_those_of_the_library(start: str, searched: Path) -> None:
    """The very bits that `find` gives, which has its own tests."""
    data = secateur.load_data("digits", subset=(100, None))

    def make() -> torch.nn.Module:
        return secateur.build("lenet300", num_classes=10, input_shape=data.input_shape)

    torch.manual_seed(secateur.core.seeds.seed_of("init", 1))
    how = {key: DENSE[key] for key in ("batch_size", "epochs", "lr", "evaluate_every")}
    levels = secateur.lottery.find(
        make(), data, **how, seed=1, levels=2, rate=0.4, layer_rates={"output": 0.5}, make=make,
        starts=("weights", start) if not STARTS[start].leads else start, rewind_to="2it",
        finetune=1 if start == "none" else None,
    )  # fmt: skip
    records = {
        (r["start"], r["level"]): r
        for r in json.loads((searched / "records.json").read_text())
        if r["seed"] == 1
    }
    for level in (each for each in levels if each.start == start):
        folder = searched / f"lot/dense-1-{start}-{level.number:02}"
        found, record = model_files.read(folder / "model.safetensors"), records[start, level.number]
        assert {name: bits.tolist() for name, bits in found.masks.items()} == {
            name: bits.tolist() for name, bits in level.masks.items()
        }
        assert all(torch.equal(found.state[name], tensor) for name, tensor in level.state.items())
        assert (record["top1"], record["early_stop"]) == (pytest.approx(level.top1), level.early_stop)


def test_exactly_as_many_weights_are_left(searched: Path) -> None:
    records = json.loads((searched / "records.json").read_text())
    assert len(records) == 2 * (1 + 2 * len(STARTS))
    for record in (record for record in records if record["level"]):
        level = record["level"]
        left = 49200 - round((1 - 0.6**level) * 49200) + 1000 - round((1 - 0.8**level) * 1000)
        assert (record["weights_left"], record["prunable"]) == (left, 50200)
        masks = secateur.load_masks(searched / "lot" / record["run"] / "model.safetensors")
        assert masks.total - masks.pruned == left
        assert masks["fc3.weight"].sum() == 1000 - round((1 - 0.8**level) * 1000)


@pytest.mark.parametrize("start", ["weights", "random"])
def test_spared_layers_count_among_the_weights_left(start: str, root: Path) -> None:
    how: dict[str, Any] = {"starts": tuple({"weights", start}), "rate": 0.5, "scope": "local"}
    records = search(layer_rates={"fc2": 0}, **how)(root).record
    found = {
        r["level"]: (r["weights_left"], r["prunable"], r["left"]) for r in records if r["start"] == start
    }
    assert found == {
        1: (30000 + 9600 + 500, 50200, pytest.approx(40100 / 50200)),
        2: (30000 + 4800 + 250, 50200, pytest.approx(35050 / 50200)),
    }
    result = Run.open(root / f"lot/dense-0-{start}-02").history[-2]["result"]
    assert (result["prunable"], result["pruned"]) == (50200, 15150)
    assert result["achieved"] == pytest.approx(result["requested"])


def test_a_level_on_disk_is_as_big_as_the_weights_and_a_bit_for_each(searched: Path) -> None:
    dense = searched / "dense-0/model.safetensors"
    weights = sum(
        tensor.numel() * tensor.element_size() for tensor in state_of(searched / "dense-0").values()
    )
    bits = sum(-(-size // 8) for size in PRUNABLE.values())
    for level in (searched / "lot").glob("dense-0-*-02"):
        assert (level / "model.safetensors").stat().st_size <= weights + bits + 2048
        assert sorted(path.name for path in level.iterdir()) == [
            "metrics.jsonl", "model.safetensors", "recipe.yaml", "run.json",
        ]  # fmt: skip
    assert dense.stat().st_size < weights + 2048


def test_the_table_has_a_row_for_each_level_with_the_spread_over_seeds(searched: Path) -> None:
    outcome = everything()(searched)
    assert outcome.record == json.loads((searched / "lot/lottery.json").read_text())
    rows = outcome.table.records()
    assert [row["level"] for row in rows] == [0, 1, 2]
    assert [row["left"] for row in rows] == pytest.approx([1, 0.604, 0.3656], abs=1e-3)
    for level, start in ((1, "weights"), (2, "random"), (2, "none")):
        own = [r["top1"] for r in outcome.record if (r["level"], r["start"]) == (level, start)]
        assert rows[level][f"top1_{start}"] == pytest.approx(sum(own) / 2)
        assert rows[level][f"top1_{start}_spread"] == pytest.approx(abs(own[0] - own[1]) / 2**0.5)
    assert rows[0]["top1_random"] is None


def test_a_second_call_does_nothing_and_more_levels_are_added(root: Path) -> None:
    first = search()(root)
    assert "2 levels trained now, 0 were there" in first.lines[0]
    before = snapshot(root)
    assert "0 levels trained now, 2 were there" in search()(root).lines[0]
    assert snapshot(root) == before
    more = search(levels=3, starts=("weights", "reinit"))(root)
    assert "4 levels trained now, 2 were there" in more.lines[0]
    assert {
        key: value for key, value in snapshot(root).items() if key in before and "json" not in str(key)
    } == {key: value for key, value in before.items() if "json" not in str(key)}


def shown(outcome: secateur.steps.Outcome) -> list[tuple[str, str, int]]:
    return [(record["dense"], record["start"], record["level"]) for record in outcome.record]


def results(root: Path) -> list[dict[str, Any]]:
    return json.loads((root / "lot/lottery.json").read_text())


def test_another_start_is_shown_beside_those_of_earlier_calls(root: Path, tmp_path: Path) -> None:
    both = ("dense-0", "dense-1")
    first = search(runs=both, starts=("weights", "reinit"))(root)
    second = search(starts=("lr",), charts="charts")(root)
    levels = [("weights", 1), ("lr", 1), ("reinit", 1), ("weights", 2), ("lr", 2), ("reinit", 2)]
    assert shown(second) == [
        ("dense-0", "dense", 0),
        ("dense-1", "dense", 0),
        *(("dense-0", *level) for level in levels),
        *(("dense-1", *level) for level in levels if level[0] != "lr"),
    ]
    assert all(record in second.record for record in first.record)
    assert second.record == results(root)
    assert "Shown beside them: 8 of other calls" in second.lines[0]
    rows = second.table.records()
    for row, before in zip(rows, first.table.records(), strict=True):
        assert before.items() <= row.items()
    assert rows[2]["top1_lr"] is not None
    assert all(start in (root / "charts/lottery.svg").read_text() for start in ("weights", "lr", "reinit"))
    kept = (root / "lot/lottery.json").read_bytes()
    (root / "lot/lottery.json").unlink()
    assert shown(search(runs=both, starts=("weights", "reinit"))(root)) == shown(second)
    assert (root / "lot/lottery.json").read_bytes() == kept


def test_levels_beyond_those_asked_for_stay_and_what_is_gone_goes(root: Path) -> None:
    search(levels=3, starts=("weights", "lr"))(root)
    shutil.rmtree(root / "lot/dense-0-lr-02")
    assert shown(search(levels=1)(root))[1:] == [
        ("dense-0", start, level)
        for level, start in ((1, "weights"), (1, "lr"), (2, "weights"), (3, "weights"), (3, "lr"))
    ]


def test_what_other_settings_made_is_kept_and_not_shown(root: Path) -> None:
    search(starts=("weights", "lr"))(root)
    again = search(rate=0.3, levels=1, overwrite=True)(root)
    assert shown(again) == [("dense-0", "dense", 0), ("dense-0", "weights", 1)]
    assert [(record["start"], record["level"]) for record in results(root)] == [
        ("dense", 0), ("weights", 1), ("lr", 1), ("weights", 2), ("lr", 2),
    ]  # fmt: skip
    assert results(root)[1]["weights_left"] == 50200 - round(0.3 * 50200)


def test_a_start_taken_in_two_ways_is_not_averaged(root: Path) -> None:
    """Other epochs of fine-tuning, and masks that another start has led to."""

    def of_the_first(outcome: secateur.steps.Outcome) -> list[tuple[str, int]]:
        return [(start, level) for dense, start, level in shown(outcome) if dense == "dense-0"]

    search(starts=("none", "reinit"), finetune=1)(root)
    again = search(runs=("dense-1",), starts=("none", "reinit"), finetune=1)(root)
    assert of_the_first(again) == [("dense", 0), ("none", 1), ("reinit", 1), ("none", 2), ("reinit", 2)]
    shutil.rmtree(root / "lot/dense-1-none-01")
    tuned = search(runs=("dense-1",), starts=("none", "reinit"), finetune=2, overwrite=True)(root)
    assert of_the_first(tuned) == [("dense", 0), ("reinit", 1)]
    led = search(runs=("dense-1",), starts=("weights", "reinit"), overwrite=True)(root)
    assert of_the_first(led) == [("dense", 0), ("none", 1), ("reinit", 1), ("none", 2)]


def test_a_repetition_is_no_sample(root: Path) -> None:
    search()(root)
    shutil.copytree(root / "dense-0", root / "again")
    found = search(runs=("again",))(root)
    assert {dense for dense, _, _ in shown(found)} == {"again"}


def test_a_level_that_left_ended_has_a_row_of_its_own(root: Path) -> None:
    search(levels=None, left=0.5)(root)
    found = search(starts=("lr",))(root)
    assert [(row["level"], round(row["left"], 2)) for row in found.table.records()] == [
        (0, 1.0), (1, 0.6), (2, 0.5), (2, 0.36),
    ]  # fmt: skip


def test_the_recipe_of_a_level_makes_it_again(searched: Path, tmp_path: Path) -> None:
    level = searched / "lot/dense-1-reshuffle-02"
    run(level / "recipe.yaml", tmp_path)
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / level.name / name).read_bytes() == (level / name).read_bytes()
    assert (tmp_path / level.name / "recipe.yaml").read_text() == (level / "recipe.yaml").read_text()


def test_a_recipe_with_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = tmp_path / "road.yaml"
    recipe.write_text(
        "secateur: 1\nsteps:\n"
        "- {do: train, model: lenet300, data: digits, train_subset: 100, epochs: 1, batch_size: 50, out: dense}\n"
        "- {do: lottery, runs: [dense], out: lot, left: 0.3, rate: 0.5, starts: [weights, random]}\n"
        "- {do: retrain, run: lot/dense-weights-02, epochs: 1}\n"
    )
    run(recipe, tmp_path)
    level = Run.open(tmp_path / "lot/dense-weights-02")
    assert [entry["do"] for entry in level.history] == ["train", *["ticket", "retrain"] * 2, "retrain"]
    assert level.history[-3]["result"]["achieved"] == pytest.approx(0.7, abs=1e-4)
    before = snapshot(tmp_path)
    outcomes = run(recipe, tmp_path)
    assert "0 levels trained now" in outcomes[1].lines[0]
    assert snapshot(tmp_path) == before


def test_levels_are_runs_like_all_others(searched: Path, root: Path) -> None:
    shutil.copytree(searched / "lot", root / "lot")
    compared = Compare(runs=("dense-0", "lot/dense-0-*-02"), latency=False)(root).record
    assert [round(row["sparsity"], 2) for row in compared][:2] == [0.0, 0.63]
    assert len(compared) == 1 + len(STARTS)
    Report(runs=("dense-0", "lot/dense-0-weights-*"), latency=False, out="report.html")(root)
    assert "magnitude, global, weights" in (root / "report.html").read_text()
    Retrain(run="lot/dense-0-weights-02", epochs=1, batch_size=40)(root)
    masks = secateur.load_masks(root / "lot/dense-0-weights-02/model.safetensors")
    state = state_of(root / "lot/dense-0-weights-02")
    assert all(not state[name][~mask].any() for name, mask in masks.items())


def test_one_shot_stands_beside_the_iterative_search(root: Path) -> None:
    search()(root)
    search(one_shot=True, starts=("lr",))(root)
    level = Run.open(root / "lot/dense-0-oneshot-lr-02")
    assert [entry["do"] for entry in level.history] == ["train", "ticket", "retrain"]
    dense, _ = Run.open(root / "dense-0").load_model()
    expected = secateur.prune(dense, amount=1 - 0.6**2).masks
    found = secateur.load_masks(level.folder / "model.safetensors")
    assert all(torch.equal(found[name], mask) for name, mask in expected.items())
    row = search()(root).table.records()[2]
    assert {"top1_weights", "top1_oneshot-lr"} <= {name for name, value in row.items() if value is not None}
    assert [r["one_shot"] for r in results(root)] == [False, False, True, False, True]


def test_a_pattern_is_one_level(root: Path) -> None:
    (level,) = search(granularity="2:4", levels=None, rate=None)(root).record[1:]
    assert level["left"] == 0.5
    with pytest.raises(InputError, match="takes its own fraction at once"):
        search(granularity="2:4")(root)
    with pytest.raises(InputError, match="Shuffled masks keep no pattern 2:4"):
        search(granularity="2:4", levels=1, rate=None, starts=("weights", "random"))(root)


@pytest.mark.parametrize("criterion", ["taylor", "random", "synflow"])
def test_any_criterion_cuts(criterion: str, root: Path) -> None:
    records = search(criterion=criterion, calibration=20, scope="local")(root).record
    assert [record["weights_left"] for record in records[1:]] == [
        sum(size - round((1 - 0.6**level) * size) for size in PRUNABLE.values()) for level in (1, 2)
    ]


def test_from_the_very_beginning_no_snapshot_is_needed(root: Path) -> None:
    ticket = Ticket(run="dense-0", out="ticket", rate=0.4)
    ticket(root)
    torch.manual_seed(secateur.core.seeds.seed_of("init", 0))
    fresh = secateur.build("lenet300", num_classes=10, input_shape=(1, 8, 8))
    masks = secateur.load_masks(root / "ticket/model.safetensors")
    masks.apply_(fresh)
    assert all(torch.equal(t, fresh.state_dict()[name]) for name, t in state_of(root / "ticket").items())
    assert "holds this ticket already" in ticket(root).lines[0]


def test_charts(searched: Path, tmp_path: Path) -> None:
    everything(charts=str(tmp_path / "charts"))(searched)
    assert sorted(path.name for path in (tmp_path / "charts").iterdir()) == [
        "lottery-early-stop.png", "lottery-early-stop.svg", "lottery.png", "lottery.svg",
    ]  # fmt: skip
    drawn = (tmp_path / "charts/lottery.svg").read_text()
    assert all(start in drawn for start in STARTS)
    assert "Weights left" in drawn


# Stops


def kept(root: Path) -> dict[str, Any]:
    """All that must not depend on interruptions; files by their digests, so that a difference can be read."""
    found: dict[str, Any] = {}
    for path in sorted((root / "lot").rglob("*")):
        name = str(path.relative_to(root / "lot"))
        if path.name == "run.json":
            history = Run.open(path.parent).history
            found[name] = [(entry["config"], entry["result"], entry["weights"]) for entry in history]
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.slow
def test_a_search_killed_at_any_moment_ends_with_the_same_bytes(
    root: Path,
    tmp_path: Path,
    fuse: Fuse,
) -> None:
    step = search(starts=("weights", "reinit"), rewind_to="2it")
    whole = Path(shutil.copytree(root, tmp_path / "whole"))
    fuse.passed = 0
    step(whole)
    moments, expected = fuse.passed, kept(whole)
    assert moments > 100
    for at in range(1, moments + 1, max(1, moments // 12)):
        stopped = Path(shutil.copytree(root, tmp_path / str(at)))
        with survived(fuse, at):
            step(stopped)
        step(stopped)
        assert kept(stopped) == expected, f"killed at moment {at} of {moments}"


@pytest.mark.slow
def test_a_command_killed_within_a_level_goes_on_within_it(root: Path, tmp_path: Path) -> None:
    words = [
        "lottery", "long", "--levels", "2", "--rate", "0.4", "--starts", "weights,random", "--out", "lot",
    ]  # fmt: skip
    Train(out="long", **{**DENSE, "epochs": 40, "checkpoint_every": "3it", "evaluate_every": "5it"})(root)
    whole = Path(shutil.copytree(root, tmp_path / "whole"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    Lottery(runs=("long",), out="lot", levels=2, rate=0.4, starts=("weights", "random"))(whole)
    torch.set_num_threads(threads)
    first = started(*words, folder=root)
    wait_for((root / "lot/long-weights-02/checkpoint.safetensors").exists, first)
    time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    output, errors = started(*words, folder=root).communicate(timeout=120)
    assert errors == ""
    assert "trained now" in output
    assert kept(root) == kept(whole)


# Mistakes


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["dense-0", "--levels", "2", "--rewind-to", "1it"],
            "no snapshot after 1it: train it with --snapshots 1it",
        ),
        (["dense-0", "--levels", "2", "--rewind-to", "5ep"], "no going back to 5ep"),
        (["dense-0", "--levels", "2", "--rewind-to", "soon"], "no span of training"),
        (["dense-0"], "Say how far to go"),
        (["dense-0", "--levels", "2", "--rate", "0.5", "--left", "0.1"], "leave one out"),
        (["dense-0", "--levels", "2", "--starts", "reinit"], "add one whose masks the others take"),
        (["dense-0", "--levels", "2", "--starts", "weight"], "did you mean weights"),
        (["dense-0", "--levels", "2", "--finetune", "3", "--starts", "weights,lr"], "add none to the starts"),
        (
            ["dense-0", "--levels", "2", "--layer-rate", "output=-1"],
            "--layer-rate cannot be -1: input should",
        ),
        (["dense-0", "--levels", "2", "--layer-rate", "fc9=0.5"], "No layer that may be cut is 'fc9'"),
        (["dense-0", "--levels", "99"], "leaves fewer weights (0) than layers (3): go less far"),
        (["dense-0", "--levels", "2", "--rate", "0.999"], "or a smaller rate"),
        (["dense-0", "--levels", "2", "--out", "dense-1"], "is a run folder: choose another --out"),
        (["dense-0", "--levels", "2", "--granularity", "head"], "no attention heads that were found"),
        (["dense-0", "--levels", "2", "--criterion", "magnitud"], "did you mean magnitude"),
        (["dense-0", "--levels", "2", "--rate", "2"], "--rate cannot be '2'"),
        (["dense-0", "dense-2", "--levels", "2"], "no run folder dense-2"),
        (["dense-0", "other", "--levels", "2"], "trained with other settings (epochs)"),
        (["dense-0", "again", "--levels", "2"], "again is not the only run of seed 0"),
        (["dense-0", "sub/dense-0", "--levels", "2"], "2 runs called dense-0"),
        (["cut", "--levels", "2"], "cut is train → prune"),
        (["taken", "--levels", "2"], "began with import"),
        (["gradual", "--levels", "2"], "was pruned as it trained, by gradual"),
        (["untrained", "--levels", "2"], "has no log"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: list[str], reason: str, spoiled: Path, secateur_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(spoiled)
    ran = secateur_command("lottery", *words, *([] if "--out" in words else ["--out", "lot"]))
    assert (ran.code, ran.out) == (2, "")
    assert reason in ran.err
    assert ran.err.count("\n") == 1
    assert not list(spoiled.glob("lot/*"))


@pytest.fixture(scope="module")
def spoiled(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense runs, and runs that no search can begin with."""
    root = Path(shutil.copytree(trained, tmp_path_factory.mktemp("spoiled") / "root"))
    plain = {**DENSE, "epochs": 1}
    Train(out="other", **plain)(root)
    Train(out="gradual", method="gradual", amount=0.5, **plain)(root)
    Train(out="untrained", **{**DENSE, "epochs": 0, "snapshots": ()})(root)
    Prune(run="dense-0", out="cut", amount=0.5)(root)
    Ticket(run="dense-0", out="level")(root)
    Retrain(run="level", epochs=1, batch_size=40)(root)
    secateur.steps.Import(model="lenet300", data="digits", out="taken")(root)
    shutil.copytree(root / "dense-1", root / "sub/dense-0")
    shutil.copytree(root / "dense-0", root / "again")
    return root


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("dense-0", "--origin", "dense-1"), "dense-1 is not the training that dense-0 began with"),
        (("dense-0", "--origin", "taken"), "taken is not the training that dense-0 began with"),
        (
            ("cut", "--origin", "dense-0"),
            "50.00% of the weights are left, and level 1 at the rate 0.2 leaves 80.00%",
        ),
        (("cut", "--origin", "dense-0", "--rewind-to", "1it", "--level", "9"), "no snapshot after 1it"),
        (("level", "--level", "2"), "level is train → ticket → retrain, and the training that it began with"),
        (("level", "--level", "2"), "give --origin the run of that one"),
        (("level", "--level", "2", "--origin", "level"), "give --origin the run of that one"),
        (("dense-0", "--level", "1e9"), "leaves fewer weights (0) than layers (3): go less far"),
    ],
)
def test_a_ticket_of_something_else_is_refused(
    words: tuple[str, ...], reason: str, spoiled: Path, secateur_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(spoiled)
    ran = secateur_command("ticket", *words, "--out", "ticket")
    assert (ran.code, ran.out) == (2, "")
    assert reason in ran.err
    assert not Path("ticket").exists()


def test_another_search_in_the_same_place_is_refused_or_replaces_what_differs(root: Path) -> None:
    search(starts=("weights", "lr"))(root)
    before = {path.name: path.stat().st_mtime_ns for path in root.glob("lot/*-01/model.safetensors")}
    with pytest.raises(
        StoreError, match=r"another level, rate 0.4 instead of 0.3: replace it with --overwrite"
    ):
        search(rate=0.3)(root)
    again = search(rate=0.3, overwrite=True)(root)
    assert "2 levels trained now" in again.lines[0]
    assert again.record[1]["weights_left"] == 50200 - round(0.3 * 50200)
    assert "0 levels trained now" in search(rate=0.3, overwrite=True)(root).lines[0]
    assert before


@pytest.mark.parametrize("change", [{"levels": 3}, {"left": 0.2}])
def test_a_search_goes_on_where_left_ended(change: dict[str, Any], root: Path) -> None:
    search(levels=None, left=0.5)(root)
    first = (root / "lot/dense-0-weights-01/model.safetensors").stat().st_mtime_ns
    further: dict[str, Any] = {"levels": None, **change}
    with pytest.raises(
        StoreError, match=r"level 1.3\d+ \(where --left ended\) instead of 2.0: .* with --overwrite"
    ):
        search(**further)(root)
    found = search(**further, overwrite=True)(root)
    assert re.search(r"lot: \d levels trained now, 1 were there", found.lines[0])
    assert first == (root / "lot/dense-0-weights-01/model.safetensors").stat().st_mtime_ns
    assert found.record[2]["left"] == pytest.approx(0.36, abs=1e-4)


def test_another_training_of_a_level_is_refused_or_replaced(root: Path) -> None:
    how: dict[str, Any] = {"starts": ("none",)}
    search(**how, finetune=1)(root)
    with pytest.raises(StoreError, match="another level, epochs 1 instead of 0: replace it with --overwrite"):
        search(**how, finetune=0)(root)
    found = search(**how, finetune=0, overwrite=True)(root)
    assert "2 levels trained now, 0 were there" in found.lines[0]
    assert "0 levels trained now, 2 were there" in search(**how, finetune=0)(root).lines[0]


def test_a_level_that_went_on_is_not_cut_further(root: Path) -> None:
    search(levels=1)(root)
    Retrain(run="lot/dense-0-weights-01", epochs=1, batch_size=40).perform(Context(root))
    with pytest.raises(StoreError, match="has gone on to"):
        search(levels=2)(root)
