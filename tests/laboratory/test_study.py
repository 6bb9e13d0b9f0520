"""Studies: what there is to do is done once, whatever comes between, and what came of it is told with its spread."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from secateur.core.errors import InputError, MissingExtraError, ModelError, StoreError
from secateur.study import ENGINES, Place, Results, Standing, conduct, engines, read_study, work
from secateur.study.pivot import pivot
from secateur.study.statistics import front, paired, summarise
from secateur.study.summary import flat

GRID: dict[str, Any] = {"seed": [0, 1], "criterion": ["magnitude", "random"], "amount": [0.5, 0.9]}
TRAIN = {"do": "train", "model": "lenet300", "data": "digits", "epochs": 1, "seed": "{seed}", "out": "dense"}
CUT = {
    "do": "prune",
    "run": "dense",
    "criterion": "{criterion}",
    "amount": "{amount}",
    "seed": "{seed}",
    "out": "cut",
}
STEPS: list[dict[str, Any]] = [TRAIN, CUT, {"do": "retrain", "run": "cut", "epochs": 1}]


def written(folder: Path, name: str = "digits.yaml", **changes: Any) -> Path:
    content = {"secateur": 1, "study": GRID, "steps": STEPS, **changes}
    (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / name


def done(path: Path, root: Path, workers: int = 1) -> Standing:
    place = Place(root, threads=1)
    return conduct(read_study(path), place, ENGINES["local"](place, workers))


def numbers(standing: Standing) -> dict[str, Any]:
    """All results but the seconds, which differ from time to time."""
    return {key: {k: v for k, v in result.items() if k != "seconds"} for key, result in standing.done.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Standing]:
    root = tmp_path_factory.mktemp("study")
    return root, done(written(root), root / "work")


def test_what_cells_have_in_common_is_one_task(tmp_path: Path) -> None:
    study = read_study(written(tmp_path))
    assert len(study.cells) == 8
    assert (
        sorted(task.step.do for task in study.tasks.values())
        == ["prune"] * 8 + ["retrain"] * 8 + ["train"] * 2
    )
    assert study.variables == {name: tuple(values) for name, values in GRID.items()}
    for cell in study.cells:
        dense, cut, again = (study.tasks[key] for key in cell.tasks.values())
        assert (cut.needs, again.needs) == ((dense.key,), (cut.key,))
        assert vars(again.step)["run"] == cut.folder
        assert vars(again.step)["out"] == again.folder


def test_a_key_is_of_what_determines_the_result_and_of_nothing_else(tmp_path: Path) -> None:
    def keys(**changes: Any) -> set[str]:
        return {cell.key for cell in read_study(written(tmp_path, **changes)).cells}

    named = [
        {**TRAIN, "out": "a"},
        {**CUT, "run": "a", "out": "b"},
        {"do": "retrain", "run": "b", "out": "c", "epochs": 1},
    ]
    placed = [{**TRAIN, "checkpoint_every": "1it"}, *STEPS[1:]]
    assert keys() == keys(steps=named) == keys(steps=placed) == keys(study=dict(reversed(GRID.items())))
    assert keys().isdisjoint(keys(steps=[{**TRAIN, "lr": 0.2}, *STEPS[1:]]))
    assert keys().isdisjoint(keys(steps=[*STEPS, STEPS[-1]]))
    assert keys() < keys(study={**GRID, "amount": [0.5, 0.9, 0.7]})


def test_a_level_shares_the_levels_above_it(tmp_path: Path) -> None:
    ticket = {"do": "ticket", "run": "net", "origin": "dense", "rate": 0.5, "level": "{n}", "out": "net"}
    chain = [ticket, {"do": "retrain", "run": "net", "epochs": 1}]
    path = written(
        tmp_path,
        study={"seed": "0..1", "level": "0..2"},
        steps=[TRAIN, {**TRAIN, "out": "net"}, {"for": {"n": "1..{level}"}, "steps": chain}],
    )
    study = read_study(path)
    assert Counter(task.step.do for task in study.tasks.values()) == {"train": 2, "ticket": 4, "retrain": 4}
    deepest = next(cell for cell in study.cells if cell.values == {"seed": 1, "level": 2})
    assert list(deepest.tasks) == ["train", "train2", "ticket", "retrain", "ticket2", "retrain2"]
    cells = flat(done(path, tmp_path / "work"))
    for cell in cells:
        last = f"retrain{cell['level'] if cell['level'] > 1 else ''}" if cell["level"] else "train2"
        assert cell["end.top1"] == cell[f"{last}.top1"]
    assert [round(cell["end.compression"]) for cell in cells] == [1, 2, 4] * 2
    table = pivot(cells, ["seed", "level"])
    assert table.columns[1].title == "end.top1"
    assert [row["level"] for row in table.rows] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"study": None}, "is no study"),
        ({"study": {}}, "is no study"),
        ({"study": ["seed"]}, "is no study"),
        ({"study": {"seed": 3}}, "seed: 3 in a grid: give a list of values, or numbers as 1..4"),
        ({"study": {"seed": "0..x"}}, "'0..x' in a grid"),
        ({"study": {**GRID, "seed": []}}, "has no cells"),
        ({"study": {**GRID, "seed": "0..99999999"}}, "a grid of 400,000,000 combinations"),
        ({"study": {**GRID, "seed": [True, False]}}, "The setting seed is true: give a value"),
        ({"study": {**GRID, "amount": [None, 0.5]}}, "Say how much to remove"),
        ({"study": {**GRID, "amount": [0.5, 1.0]}}, "leaves no weight anywhere"),
        ({"steps": [TRAIN, {**CUT, "amount": {"amount": None}}]}, "without quotes"),
        ({"study": {**GRID, "a.b": [1]}}, "has a variable 'a.b'"),
        ({"study": {**GRID, "key": [1, 2]}}, "has a variable key, as the table"),
        ({"study": {**GRID, "way": [{"way": "x", "seed": 1}]}}, "gives seed twice"),
        ({"grid": GRID}, "has the key grid, which a recipe has not"),
        ({"steps": [{"for": ["n"], "steps": STEPS}]}, "does not map names to lists"),
        ({"steps": [{"for": {"n": "1..{levels}"}, "steps": STEPS}]}, "uses {levels}"),
        (
            {"study": {**GRID, "repeat": [0, 1]}},
            "cells that do the same, repeat 0 and repeat 1: a value is listed twice or used by no step",
        ),
        (
            {"study": {**GRID, "seed": [0, 0]}},
            "do the same, seed 0, criterion magnitude, amount 0.5: a value",
        ),
        ({"study": {"seed": [0]}}, "uses {criterion}, which neither a for"),
        ({"steps": []}, "no steps"),
        ({"steps": [{**CUT, "run": "other"}]}, "prune reads other, which no step before it makes"),
        ({"steps": [*STEPS, {"do": "report", "runs": ["cut"]}]}, "report looks at several runs"),
        ({"steps": [{**TRAIN, "epochs": -1}]}, "epochs"),
        ({"secateur": 9}, "version 9"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        read_study(written(tmp_path, **changes))


def test_a_finished_study_is_not_done_again(
    undisturbed: tuple[Path, Standing], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, first = undisturbed
    monkeypatch.setattr(engines, "carry_out", lambda *_: pytest.fail("it was done"))
    assert done(root / "digits.yaml", root / "work").done == first.done
    assert len(first.finished()) == 8
    assert not first.failed


def test_more_values_mean_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"seed": [0], "criterion": ["magnitude"], "amount": [0.5]}
    done(written(tmp_path, study=small), tmp_path)
    taken: list[str] = []
    plain = engines.carry_out
    monkeypatch.setattr(
        engines, "carry_out", lambda task, place: taken.append(task.step.do) or plain(task, place)
    )
    standing = done(written(tmp_path, study={**small, "amount": [0.5, 0.7]}), tmp_path)
    assert taken == ["prune", "retrain"]
    assert len(standing.finished()) == 2


def test_several_processes_find_the_same(undisturbed: tuple[Path, Standing], tmp_path: Path) -> None:
    assert numbers(done(written(tmp_path), tmp_path / "work", workers=2)) == numbers(undisturbed[1])


def test_a_worker_that_is_killed_costs_nothing(undisturbed: tuple[Path, Standing], tmp_path: Path) -> None:
    study, place = read_study(written(tmp_path)), Place(tmp_path / "work", threads=1)
    killed: list[int] = []

    def show(standing: Standing) -> None:
        if standing.running and len(killed) < 2 and len(standing.done) >= 4 * len(killed):
            for worker in multiprocessing.active_children()[:1]:
                os.kill(int(worker.pid or 0), signal.SIGKILL)
                killed.append(int(worker.pid or 0))

    standing = conduct(study, place, ENGINES["local"](place, 2), show)
    assert len(killed) == 2
    assert numbers(standing) == numbers(undisturbed[1])
    rows = sqlite3.connect(tmp_path / "work/study.sqlite").execute(
        "select count(*), count(distinct key) from tasks"
    )
    assert rows.fetchone() == (18, 18)


@pytest.mark.slow
def test_on_a_ray_cluster_that_loses_a_node_nothing_is_lost_or_doubled(
    undisturbed: tuple[Path, Standing], tmp_path: Path
) -> None:
    ray: Any = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    lost: list[bool] = []

    def show(standing: Standing) -> None:
        if not lost and len(standing.done) > 6:
            lost.append(True)
            cluster.remove_node(second, allow_graceful=False)

    try:
        study, place = read_study(written(tmp_path)), Place(tmp_path / "work", threads=1)
        standing = conduct(study, place, ENGINES["ray"](place, None), show)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost
    assert numbers(standing) == numbers(undisturbed[1])
    rows = sqlite3.connect(tmp_path / "work/study.sqlite").execute(
        "select count(*), count(distinct key) from tasks"
    )
    assert rows.fetchone() == (18, 18)


def test_without_ray_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'secateur\[ray\]'"):
        ENGINES["ray"](Place(tmp_path), None)


def test_a_study_killed_again_and_again_ends_the_same(
    undisturbed: tuple[Path, Standing], tmp_path: Path
) -> None:
    path = written(tmp_path)
    command = [sys.executable, "-m", "secateur", "study", "run", str(path), "--root", str(tmp_path / "work")]
    file = tmp_path / "work/study.sqlite"
    for enough in (2, 7, 12):
        running = subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL)
        until = time.monotonic() + 100
        while running.poll() is None and time.monotonic() < until and tasks_in(file) < enough:
            time.sleep(0.01)
        running.kill()
        running.wait()
    assert 12 <= tasks_in(file) < 18
    assert numbers(done(path, tmp_path / "work")) == numbers(undisturbed[1])


def tasks_in(file: Path) -> int:
    try:
        return int(
            sqlite3.connect(f"file:{file}?mode=ro", uri=True)
            .execute("select count(*) from tasks")
            .fetchone()[0]
        )
    except sqlite3.Error:
        return 0


def test_a_cell_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secateur_command: Any
) -> None:
    plain, path = engines.carry_out, written(tmp_path, study={**GRID, "seed": [0]})

    def fails(task: Any, place: Place) -> Any:
        if vars(task.step).get("criterion") == "random":
            raise ZeroDivisionError("by nothing")
        return plain(task, place)

    monkeypatch.setattr(engines, "carry_out", fails)
    standing = done(path, tmp_path / "work")
    assert len(standing.finished()) == 2
    reason = "ZeroDivisionError: by nothing"
    assert [(cell.values["criterion"], step, why) for cell, step, why in standing.lost()] == 2 * [
        ("random", "prune", reason)
    ]
    assert list(standing.failed.values()) == [reason, reason]  # what was never tried did not fail
    told = secateur_command("study", "status", path, "--root", tmp_path / "work", "--format", "csv")
    assert told.out.count(f"failed at prune: {reason}") == 2
    told = secateur_command("study", "table", path, "--root", tmp_path / "work")
    assert "2 cells failed; secateur study status tells why." in told.out
    assert "not done yet" not in told.out
    monkeypatch.undo()
    assert len(done(path, tmp_path / "work").finished()) == 4
    told = secateur_command("study", "status", path, "--root", tmp_path / "work", "--format", "csv")
    assert "failed" not in told.out
    database = sqlite3.connect(tmp_path / "work/study.sqlite")
    assert database.execute("select count(*) from failures").fetchone() == (2,)  # nothing is ever taken back


def test_a_study_of_an_older_version_has_no_failures(tmp_path: Path) -> None:
    Results(tmp_path).close()
    sqlite3.connect(tmp_path / "study.sqlite").execute("drop table failures").connection.commit()
    assert Results.existing(tmp_path).failures(["key"]) == {}


def test_code_that_is_not_trusted_stops_a_study_before_anything_is_done(tmp_path: Path) -> None:
    path = written(tmp_path, steps=[{**TRAIN, "model": "nowhere.such:model"}, CUT])
    with pytest.raises(
        InputError, match=r"names the code nowhere\.such:model to build a model: allow it with --trust"
    ):
        done(path, tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signals that wait")
def test_ctrl_c_while_workers_begin_is_one_sentence(tmp_path: Path) -> None:
    """A terminal sends it to all processes at once, also to those that are still importing."""
    path = written(tmp_path)
    words = ["study", "run", str(path), "--root", str(tmp_path / "work"), "--workers", "2"]
    running = subprocess.Popen(
        [sys.executable, "-m", "secateur", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    if not children.exists():
        running.kill()
        pytest.skip("needs Linux to see a process's children")
    until = time.monotonic() + 100
    while len(children.read_text().split()) < 3 and time.monotonic() < until and running.poll() is None:
        time.sleep(0.005)  # two workers and what multiprocessing has to clean up
    time.sleep(0.2)
    os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert errors == "secateur: stopped; give the same command again to continue.\n"
    assert running.returncode == 130


def dies(task: Any, place: Place) -> Any:
    os._exit(1)


def test_a_task_that_kills_its_workers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, threads=1)
    pool = engines.Pool(place, 2)
    monkeypatch.setattr(engines, "attempted", dies)
    task = next(iter(read_study(written(tmp_path)).tasks.values()))
    pool.submit(task)
    found: list[Any] = []
    while not found:
        found = list(pool.finished())
    pool.close()
    assert found[0][0] is task
    assert isinstance(found[0][1], ModelError)
    assert "killed 3 times" in str(found[0][1])


def test_the_file_is_read_by_other_programs(undisturbed: tuple[Path, Standing]) -> None:
    root, standing = undisturbed
    base = sqlite3.connect(root / "work/study.sqlite")
    base.row_factory = sqlite3.Row
    rows = [dict(row) for row in base.execute("select * from results")]
    assert len(rows) == 8
    for cell in flat(standing):
        (row,) = [row for row in rows if all(row[name] == cell[name] for name in GRID)]
        assert all(cell[name] == value for name, value in row.items() if name in cell)
        assert row["retrain.top1"] == cell["retrain.top1"]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.sqlite").write_text("mine " * 100)
    with pytest.raises(StoreError, match=r"Cannot use .*study\.sqlite"):
        Results(tmp_path)


def test_the_table_is_means_over_seeds(undisturbed: tuple[Path, Standing]) -> None:
    cells = flat(undisturbed[1])
    table = pivot(cells, list(GRID), baseline="random")
    assert [row["criterion"] for row in table.rows] == ["magnitude", "random"]
    for row in table.rows:
        for amount in GRID["amount"]:
            own, other = (
                np.array(
                    [c["retrain.top1"] for c in cells if (c["criterion"], c["amount"]) == (which, amount)]
                )
                for which in (row["criterion"], "random")
            )
            place = f"amount={amount}"
            assert row[place] == pytest.approx(own.mean(), rel=1e-12)
            assert row[f"{place} std"] == pytest.approx(own.std(ddof=1), rel=1e-12, abs=1e-15)
            if row["criterion"] == "magnitude":
                assert row[f"{place} difference"] == pytest.approx((own - other).mean(), rel=1e-12)
                assert row[f"{place} low"] <= row[f"{place} difference"] <= row[f"{place} high"]
    header, *lines = table.csv().splitlines()
    names = [
        f"amount={amount}{what}"
        for amount in (0.5, 0.9)
        for what in ("", " std", " difference", " low", " high")
    ]
    assert header.split(",") == ["criterion", *names, "n"]
    assert all(len(line.split(",")) == len(names) + 2 for line in lines)  # nothing in a cell but one value


def test_values_that_are_mappings_are_one_variable(tmp_path: Path) -> None:
    ways = [
        {"way": "plain", "criterion": "magnitude", "scope": "global"},
        {"way": "layers", "criterion": "magnitude", "scope": "local"},
        {"criterion": "random", "scope": "global"},
    ]
    cut = {**CUT, "scope": "{scope}", "amount": 0.9}
    study = {"seed": [0, 1], "way": ways}
    standing = done(written(tmp_path, study=study, steps=[TRAIN, cut]), tmp_path / "work")
    assert list(standing.study.variables) == ["seed", "way"]
    assert standing.study.variables["way"] == ("plain", "layers", "random, global")
    cells = flat(standing)
    table = pivot(cells, ["seed", "way"], baseline="random, global")
    assert [row["way"] for row in table.rows] == ["plain", "layers", "random, global"]
    tops = {(c["way"], c["seed"]): c["prune.top1"] for c in cells}
    for row in table.rows[:2]:
        gaps = [tops[row["way"], seed] - tops["random, global", seed] for seed in (0, 1)]
        assert row["prune.top1 difference"] == pytest.approx(np.mean(gaps), rel=1e-12, abs=1e-15)
    assert {cell["scope"] for cell in cells} == {"global", "local"}


def test_what_shares_a_seed_is_no_repetition_of_its_own() -> None:
    cells = [
        {"seed": seed, "criterion": criterion, "amount": amount, "x.top1": seed + 10 * bias + 100 * amount}
        for seed in (0, 1, 2)
        for bias, criterion in enumerate(("a", "b"))
        for amount in (0.5, 0.9)
    ]
    table = pivot(cells, ["seed", "criterion", "amount"], rows=["amount"], baseline="0.5")
    assert [row["n"] for row in table.rows] == [3, 3]
    assert table.columns[-1].title == "n, each a mean over criterion"
    for row, amount in zip(table.rows, (0.5, 0.9), strict=True):
        assert row["x.top1"] == pytest.approx(1 + 5 + 100 * amount)
        assert row["x.top1 std"] == pytest.approx(1)  # of 0, 1, 2; what a and b differ by is no spread
    assert table.rows[1]["x.top1 difference"] == pytest.approx(40)
    lonely = [cell for cell in cells if (cell["seed"], cell["amount"]) in {(0, 0.5), (1, 0.9)}]
    with pytest.raises(InputError, match=r"No cell differs from one of 0\.5 in amount alone"):
        pivot(lonely, ["seed", "criterion", "amount"], rows=["amount"], baseline="0.5")
    (row,) = pivot(cells, ["seed"]).rows
    assert row["n"] == 3


def test_studies_that_share_cells_are_both_in_the_results(tmp_path: Path) -> None:
    grid = {"seed": [0], "amount": [0.5, 0.9]}
    cut = {**CUT, "criterion": "magnitude"}
    renamed = {"seed": [0], "rate": [0.9]}
    for name, study, step in (
        ("one.yaml", grid, cut),
        ("two.yaml", renamed, {**cut, "amount": "{rate}"}),
        ("one.yaml", {**grid, "label": [{"label": "x"}]}, cut),
    ):
        done(written(tmp_path, name, study=study, steps=[TRAIN, step]), tmp_path / "work")
    base = sqlite3.connect(tmp_path / "work/study.sqlite")
    assert base.execute("select count(*) from tasks").fetchone() == (3,)
    found = base.execute(
        "select study, amount, label from results where study = 'one' order by amount"
    ).fetchall()
    assert found == [("one", 0.5, "x"), ("one", 0.9, "x")]
    done(tmp_path / "two.yaml", tmp_path / "work")
    found = base.execute(
        'select study, rate, "prune.achieved" from results where rate is not null'
    ).fetchall()
    assert found == [("two", 0.9, pytest.approx(0.9, abs=1e-4))]


def test_results_of_an_older_version_are_read_and_carried_on(tmp_path: Path) -> None:
    path = written(
        tmp_path, study={"seed": [0], "amount": [0.5, 0.9]}, steps=[TRAIN, {**CUT, "criterion": "random"}]
    )
    first = done(path, tmp_path / "work")
    base = sqlite3.connect(tmp_path / "work/study.sqlite")
    base.executescript("drop view results; drop table plans;")
    file = (tmp_path / "work/study.sqlite").read_bytes()
    kept = Results.existing(tmp_path / "work")
    assert numbers(Standing(read_study(path), kept.tasks(list(first.done)))) == numbers(first)
    assert (tmp_path / "work/study.sqlite").read_bytes() == file
    assert done(path, tmp_path / "work").done == first.done
    assert base.execute("select count(*) from results").fetchone() == (2,)


def test_the_results_are_of_the_cells_there_are_now(tmp_path: Path) -> None:
    grid = {"seed": [0], "amount": [0.5, 0.9]}
    cut = {**CUT, "criterion": "magnitude"}
    for study, changes, amounts in (
        (grid, {}, [0.5, 0.9]),
        (grid, {"norm": "l2"}, [0.5, 0.9]),
        ({**grid, "amount": [0.5]}, {"norm": "l2"}, [0.5]),
    ):
        done(written(tmp_path, study=study, steps=[TRAIN, {**cut, **changes}]), tmp_path / "work")
        base = sqlite3.connect(tmp_path / "work/study.sqlite")
        found = base.execute("select amount from results order by amount").fetchall()
        assert [amount for (amount,) in found] == amounts
    assert base.execute("select count(*) from plans").fetchone() == (3,)


def test_what_was_deleted_is_made_again_when_it_is_needed(tmp_path: Path) -> None:
    path = written(tmp_path, study={**GRID, "seed": [0], "amount": [0.5]})
    first = done(path, tmp_path / "work")
    before = numbers(first)
    shutil.rmtree(tmp_path / "work/runs")
    assert numbers(done(path, tmp_path / "work")) == before, "nothing needs the folders"
    assert not (tmp_path / "work/runs").exists()
    written(tmp_path, study={**GRID, "seed": [0], "amount": [0.5, 0.9]})
    again = done(path, tmp_path / "work")
    assert len(again.finished()) == 4
    assert before.items() <= numbers(again).items()


def test_steps_without_a_model_give_their_numbers_or_are_refused(tmp_path: Path) -> None:
    few = {"train_subset": 100, "snapshots": ["0it"]}
    train, ask = {**TRAIN, **few}, {"do": "supermask", "run": "dense", "amounts": ["{amount}"]}
    study = {"seed": [0], "amount": [0.5, 0.9]}
    one = {**ask, "criteria": ["large_final"], "kept": ["rewind"], "masked": ["zero"]}
    standing = done(written(tmp_path, study=study, steps=[train, one]), tmp_path / "work")
    assert [cell["supermask.left"] for cell in flat(standing)] == pytest.approx([0.5, 0.1], abs=0.01)
    two = {**one, "criteria": ["large_final", "large_init"]}
    lost = done(written(tmp_path, study=study, steps=[train, two]), tmp_path / "work").lost()
    assert len(lost) == 2
    assert (lost[0][1], "supermask finds no single numbers here" in lost[0][2]) == ("supermask", True)


def test_compression_and_speedup_are_of_the_whole_model(undisturbed: tuple[Path, Standing]) -> None:
    for cell in flat(undisturbed[1]):
        dense = cell["train.parameters"]
        assert cell["train.compression"] == pytest.approx(dense / cell["train.nonzero"])
        assert cell["retrain.nonzero"] == dense - cell["prune.pruned"]
        assert cell["retrain.compression"] == pytest.approx(dense / (dense - cell["prune.pruned"]))
        assert cell["retrain.speedup"] == pytest.approx(1 / (1 - cell["amount"]), rel=0.01)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"rows": ["critreion"]}, "no variable named 'critreion': did you mean criterion"),
        ({"columns": "amounts"}, "did you mean amount"),
        ({"value": "retrain.top"}, "did you mean retrain.top"),
        ({"value": "criterion"}, "There is no number named 'criterion'"),
        ({"baseline": "randon"}, "did you mean random"),
        ({"against": "cost"}, "no number named 'cost'"),
        ({"columns": "amount", "against": "retrain.nonzero"}, "leave --columns out"),
        ({"rows": ["amount"], "columns": "amount"}, "name it once"),
        ({"rows": ["amount", "amount"]}, "name it once"),
    ],
)
def test_a_table_of_what_is_not_there_is_refused(
    asked: dict[str, Any], reason: str, undisturbed: tuple[Path, Standing]
) -> None:
    with pytest.raises(InputError, match=reason):
        pivot(flat(undisturbed[1]), list(GRID), **asked)


@pytest.mark.parametrize(("value", "better"), [("retrain.top1", 1), ("retrain.loss", -1)])
@pytest.mark.parametrize(
    ("against", "dearer"), [("retrain.nonzero", 1), ("retrain.compression", -1), ("end.x", 1)]
)
def test_rows_that_none_beats_are_marked(value: str, better: int, against: str, dearer: int) -> None:
    numbers = [
        (0.5, 2.0, 10, 2.0),
        (0.9, 1.0, 5, 4.0),
        (0.6, 3.0, 5, 4.0),
        (0.4, 1.5, 20, 1.0),
        (0.9, 2.5, 30, 0.5),
    ]
    cells = [
        {
            "way": way,
            "retrain.top1": top1,
            "retrain.loss": loss,
            "retrain.nonzero": nonzero,
            "retrain.compression": compression,
            "end.x": nonzero,
        }
        for way, (top1, loss, nonzero, compression) in enumerate(numbers)
    ]
    table = pivot(cells, ["way"], value=value, against=against)
    points = [(dearer * cell[against], better * cell[value]) for cell in cells]
    for row, (cost, gain) in zip(table.rows, points, strict=True):
        beaten = any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
        assert (row["front"] is None) == beaten


@pytest.mark.parametrize(
    ("name", "values", "shown"),
    [
        ("x.top1", (0.5, 0.52), "51.00 ± 1.41 %"),
        ("x.loss", (2.3, 2.3022), "2.3011 ± 0.0016"),
        ("x.nonzero", (25_000, 27_000), "26,000 ± 1,414"),
        ("x.loss", (2.0, 2.0), "2.000 ± 0"),
        ("x.loss", (2.0,), "2.000"),
    ],
)
def test_means_have_the_decimals_of_their_deviations(
    name: str, values: tuple[float, ...], shown: str
) -> None:
    cells = [{"seed": seed, "way": "a", name: value} for seed, value in enumerate(values)]
    assert pivot(cells, ["seed", "way"], value=name).cells()[0][1] == shown


def test_a_difference_has_the_decimals_of_its_interval() -> None:
    cells = [
        {"seed": seed, "way": way, "x.loss": 2.3 + 0.001 * seed + gap}
        for way, gaps in (("a", (0.0, 0.0, 0.0)), ("b", (0.0011, 0.0012, 0.0014)))
        for seed, gap in enumerate(gaps)
    ]
    table = pivot(cells, ["seed", "way"], value="x.loss", baseline="a")
    assert table.cells()[1][2] == "+0.00123 (+0.00085 to +0.00161)"


VALUES = st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=9)


@given(VALUES)
def test_summaries_are_those_of_student(values: list[float]) -> None:
    found = summarise(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9)
    assert found.deviation == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-9)
    if found.deviation:
        low, high = stats.t.interval(0.95, len(values) - 1, found.mean, stats.sem(values))
        assert (found.low, found.high) == (pytest.approx(low, rel=1e-6), pytest.approx(high, rel=1e-6))


@given(VALUES, st.integers(0, 100))
def test_pairs_are_those_of_the_paired_test(values: list[float], seed: int) -> None:
    other = np.random.default_rng(seed).normal(size=len(values))
    found = paired(dict(enumerate(values)), {**dict(enumerate(other)), "alone": 9.0})
    assert found is not None
    test = stats.ttest_rel(values, other)
    interval = test.confidence_interval(0.95)
    if np.std(np.array(values) - other) > 1e-6:
        assert (found.low, found.high) == (
            pytest.approx(interval.low, rel=1e-5),
            pytest.approx(interval.high, rel=1e-5),
        )


def test_one_measurement_has_no_spread_and_none_no_summary() -> None:
    assert summarise([0.5]).deviation is None
    assert paired({0: 1.0}, {1: 1.0}) is None
    with pytest.raises(InputError, match="nothing to summarise"):
        summarise([])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_nobody_beats(points: list[tuple[int, int]]) -> None:
    marks = front([cost for cost, _ in points], [gain for _, gain in points])
    for (cost, gain), on in zip(points, marks, strict=True):
        assert on == (not any((c <= cost and g > gain) or (c < cost and g >= gain) for c, g in points))


def test_the_commands(secateur_command: Any, tmp_path: Path) -> None:
    written(tmp_path, study={"seed": [0, 1], "criterion": ["magnitude", "random"], "amount": [0.5]})
    refused = secateur_command("study", "table", "digits.yaml")
    assert (refused.code, refused.out) == (2, "")
    assert "run it first" in refused.err
    assert not (tmp_path / "digits").exists()
    ran = secateur_command("study", "run", "digits.yaml", "--workers", "1")
    assert ran.out == "digits: 4 of 4 cells are done\n"
    assert ran.err.splitlines() == [f"digits: {n} of 4 cells are done" for n in range(1, 5)]
    (tmp_path / "deeper").mkdir()
    os.chdir(tmp_path / "deeper")
    assert "4 of 4" in secateur_command("study", "status", "../digits.yaml").out
    os.chdir(tmp_path)
    told = json.loads(secateur_command("study", "status", "digits.yaml", "--format", "json").out)
    assert {row["state"] for row in told} == {"done"}
    assert "\\begin{tabular}" in secateur_command("study", "table", "digits.yaml", "--format", "latex").out
    table = secateur_command("study", "table", "digits.yaml", "--baseline", "random", "--format", "csv").out
    assert table.startswith("criterion,")
    ran = secateur_command("study", "report", "digits.yaml", "--charts", "charts")
    assert ran.code == 0
    page = (tmp_path / "study.html").read_text()
    assert "Study digits" in page
    assert sorted(path.name for path in (tmp_path / "charts").iterdir()) == ["study.png", "study.svg"]


@pytest.mark.parametrize(
    ("words", "mentioned"),
    [
        (["run", "missing.yaml"], "missing.yaml"),
        (["run", "digits.yaml", "--engine", "lokal"], "did you mean local"),
        (["run", "digits.yaml", "--workers", "0"], "--workers"),
        (["table", "digits.yaml", "--root", "nowhere"], "nowhere holds no results"),
        (["status"], "STUDY"),
        (["stop", "digits.yaml"], "stop"),
    ],
)
def test_a_mistake_gets_one_sentence(
    words: list[str], mentioned: str, secateur_command: Any, tmp_path: Path
) -> None:
    written(tmp_path)
    ran = secateur_command("study", *words)
    assert (ran.code, ran.out) == (2, "")
    assert mentioned in ran.err
    assert ran.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["digits.yaml"]


def test_a_recipe_command_says_where_studies_go(secateur_command: Any, tmp_path: Path) -> None:
    written(tmp_path)
    assert "secateur study run" in secateur_command("run", "digits.yaml").err


def test_a_study_runs_no_code_unasked(secateur_command: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
    steps = [{**TRAIN, "model": "mine:net"}]
    written(tmp_path, study={"seed": [0]}, steps=steps)
    ran = secateur_command("study", "run", "digits.yaml", "--workers", "1")
    assert ran.code == 2
    assert "--trust" in ran.err


def test_what_a_result_is() -> None:
    record = {"top1": 0.5, "macs": [10, 5], "groups": [{"a": 1}], "name": "x", "none": None, "deep": {"b": 1}}
    flat_ones = {"top1": 0.5, "macs": 5, "name": "x", "none": None}
    assert work.numbers(record, inner=False) == flat_ones
    assert work.numbers([record]) == work.numbers(record) == {**flat_ones, "groups.a": 1, "deep.b": 1}
    assert work.numbers([record, record]) == {}
