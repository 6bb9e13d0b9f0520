"""Tickets of channels, heads and layers: a smaller network given the weights the dense one had."""

from __future__ import annotations

import copy
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kills import Fuse, survived
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError
from secateur.core.seeds import same_draws
from secateur.lottery import find, plan, subnetwork
from secateur.lottery.starts import start_seed
from secateur.runs.run import Run
from secateur.steps import Lottery, Prune, Ticket, Train
from secateur.steps.dense import Dense
from secateur.storage import model_files
from secateur.training import read_snapshot

DENSE: dict[str, Any] = {
    "model": "convnet", "data": "digits", "train_subset": 100, "batch_size": 40, "epochs": 2, "lr": 0.05,
    "evaluate_every": "1it", "snapshots": ("2it",),
}  # fmt: skip
STARTS = ("weights", "lr", "none", "reinit", "scratch_e", "scratch_b")


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def searched(root: Path, **changes: Any) -> list[dict[str, Any]]:
    settings = {"runs": ("dense",), "out": "lot", "granularity": "channel", "levels": 2, "rate": 0.3}
    records: list[dict[str, Any]] = Lottery(**{**settings, **changes})(root).record
    return records


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense run; tests must not change it."""
    root = tmp_path_factory.mktemp("runs")
    Train(out="dense", **DENSE)(root)
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "root"))


# The cut of a level


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.6), st.lists(st.integers(4, 30), min_size=1, max_size=3), st.integers(1, 3))
@example(rate=0.4375, widths=[4], levels=3)  # the third level leaves the one unit there is
def test_after_each_level_exactly_so_many_units_are_left(rate: float, widths: list[int], levels: int) -> None:
    torch.manual_seed(0)
    model, inputs, before = mlp(5, *widths, 3), torch.randn(2, 5), None
    whole = sum(widths)
    for level in range(1, levels + 1):
        wanted = whole - round((1 - (1 - rate) ** level) * whole)
        if wanted < len(widths):
            break
        found = subnetwork(
            model, granularity="channel", rate=rate, level=level, before=before, example_inputs=inputs
        )
        assert (found.left, found.whole) == (wanted, whole)
        assert sum(each.out_features for each in found.model if isinstance(each, nn.Linear)) == wanted + 3
        model, before = found.model, (found.left, found.whole)


def test_a_smaller_network_takes_what_its_units_had_in_any_state_of_the_dense_one() -> None:
    """The dense network computes the same with that state, once the units that went are zeroed."""
    torch.manual_seed(0)
    model, example = mlp(5, 12, 9, 3).double(), torch.randn(7, 5, dtype=torch.float64)
    first = subnetwork(model, granularity="channel", rate=0.3, level=1, example_inputs=example)
    found = subnetwork(
        first.model, granularity="channel", rate=0.3, level=2, before=(first.left, first.whole),
        example_inputs=example,
    )  # fmt: skip
    other = mlp(5, 12, 9, 3).double()
    state = {name: torch.randn_like(tensor) for name, tensor in other.state_dict().items()}
    found.model.load_state_dict(found.of(state, lambda: mlp(5, 12, 9, 3).double()))
    other.load_state_dict(state)
    kept = found.model.secateur_plan.kept
    assert isinstance(kept, dict)
    with torch.no_grad():
        for name in ("0", "2"):
            gone = torch.ones(len(state[f"{name}.weight"]), dtype=torch.bool)
            gone[kept[f"{name}.weight"][0]] = False
            other.get_submodule(name).weight[gone] = 0.0
            other.get_submodule(name).bias[gone] = 0.0
        torch.testing.assert_close(found.model(example), other(example), rtol=1e-12, atol=1e-12)


def test_the_model_that_is_cut_stays_as_it_is() -> None:
    model = mlp(5, 8, 3)
    before = copy.deepcopy(model.state_dict())
    subnetwork(model, granularity="channel", rate=0.5, level=1, example_inputs=torch.randn(2, 5))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"level": 9}, "leaves 0 of 12 channels, and 2 must stay"),
        ({"level": 1, "before": (3, 12)}, "3 of 12 channels are left, and level 1 at the rate 0.5 leaves 6"),
        ({"layer_rates": {"output": 0.5}}, "no part of one layer alone"),
        ({"include": "all"}, "include has no meaning for the granularity channel"),
        ({"scope": "lamp"}, "no scope for units named 'lamp'"),
        ({"example_inputs": None}, "needs example inputs"),
        ({"rate": 1.0}, "takes all of a layer"),
    ],
)
def test_a_cut_of_units_that_makes_no_sense_is_refused(how: dict[str, Any], reason: str) -> None:
    asked = {"granularity": "channel", "rate": 0.5, "level": 2, "example_inputs": torch.randn(2, 5)}
    with pytest.raises(InputError, match=reason):
        subnetwork(mlp(5, 6, 6, 3), **{**asked, **how})


def test_what_can_t_be_reached_is_found_before_anything_is_trained() -> None:
    with pytest.raises(InputError, match="go less far"):
        plan(mlp(5, 6, 3), levels=40, granularity="channel", example_inputs=torch.randn(2, 5))


# Searches in memory


def test_a_search_in_memory() -> None:
    data = secateur.load_data("digits", subset=(100, None))

    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), mlp(64, 20, 10, 10))

    with same_draws(1):
        model = make()
    levels = find(
        model, data, epochs=2, lr=0.05, batch_size=40, rate=0.4, levels=2, starts=["weights", "lr", "reinit"],
        rewind_to="2it", make=make, cuts={"granularity": "channel"},
    )  # fmt: skip
    counts = {(level.start, level.number): level.counts for level in levels[1:]}
    assert counts == {
        (start, number): (30 - round((1 - 0.6**number) * 30), 30)
        for start in ("weights", "lr", "reinit")
        for number in (1, 2)
    }
    by_name = {(level.start, level.number): level for level in levels}
    assert by_name["dense", 0].left == 1
    assert by_name["weights", 2].left == 11 / 30
    assert by_name["reinit", 2].plan is not None
    assert_same(model.state_dict(), levels[-1].state)  # it ends as the last of them
    assert sum(each.out_features for each in model.modules() if isinstance(each, nn.Linear)) == 11 + 10


# Searches as run folders


def rows_of(plan: Any, name: str, tensor: Tensor) -> Tensor:
    """Keep of a dense tensor what the plan keeps, dimension by dimension."""
    for dim, indices in plan.kept.get(name, {}).items():
        tensor = torch.stack([tensor.select(dim, int(index)) for index in indices], dim)
    return tensor


def assert_same(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def as_cut(root: Path, name: str) -> model_files.Stored:
    """Take the level's ticket alone once more: what its training started from."""
    level = Run.open(root / "lot" / name)
    config = dict(level.history[1]["config"])
    Ticket(**{**config, "run": "dense", "origin": "dense", "out": f"again-{name}"})(root)
    return model_files.read(root / f"again-{name}" / "model.safetensors")


def test_what_a_level_starts_from(root: Path) -> None:
    records = searched(root, levels=1, rewind_to="2it", starts=STARTS)
    assert [record["start"] for record in records[1:]] == list(STARTS)
    dense = Dense(Run.open(root / "dense"))
    states: dict[str, Any] = {
        "weights": read_snapshot(root / "dense", 2),
        "lr": model_files.read(root / "dense/model.safetensors").state,
        "none": model_files.read(root / "dense/model.safetensors").state,
    }
    for start in STARTS:
        stored = as_cut(root, f"dense-{start}-01")
        assert stored.plan is not None
        whole = states[start] if start in states else dense.fresh(start_seed(start, 0, 1.0))
        assert_same(stored.state, {name: rows_of(stored.plan, name, each) for name, each in whole.items()})
    plans = [as_plan(root, f"dense-{start}-01") for start in STARTS]
    assert all(each == plans[0] for each in plans)  # the same channels of the same training


def as_plan(root: Path, name: str) -> Any:
    plan = model_files.read(root / f"lot/{name}/model.safetensors").plan
    assert plan is not None
    return {
        name: {dim: indices.tolist() for dim, indices in dims.items()} for name, dims in plan.kept.items()
    }


def test_new_weights_are_drawn_anew_for_each_start(root: Path) -> None:
    searched(root, levels=1, starts=("weights", "reinit", "scratch_e"))
    states = [as_cut(root, f"dense-{start}-01").state for start in ("weights", "reinit", "scratch_e")]
    names = [name for name, tensor in states[0].items() if tensor.ndim > 1]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not any(torch.equal(states[one][name], states[other][name]) for name in names)


@pytest.mark.parametrize(
    ("model", "granularity", "how"),
    [
        ("convnet", "channel", {"rate": 0.3}),
        ("convnet", "channel", {"rate": 0.3, "scope": "local"}),
        ("convnet", "channel", {"rate": 0.3, "criterion": "taylor", "one_shot": True}),
        ("convnet", "channel", {"rate": None, "levels": 3, "left": 0.4}),
        ("resnet20", "layer", {"rate": 0.3}),
    ],
)
def test_records_tell_what_is_left(tmp_path: Path, model: str, granularity: str, how: dict[str, Any]) -> None:
    Train(out="dense", **{**DENSE, "model": model, "epochs": 1})(tmp_path)
    records = searched(tmp_path, granularity=granularity, starts=("weights", "reinit"), **how)
    whole = Run.open(tmp_path / "dense").load_model()[0]
    for record in records[1:]:
        run = Run.open(tmp_path / "lot" / record["run"])
        small, masks = run.load_model()
        assert not masks
        assert record["granularity"] == granularity
        assert record["left"] == pytest.approx(record["units_left"] / record["prunable"])
        assert record["weights_left"] is None
        assert record["macs_left"] == pytest.approx(
            secateur.measure(small, run.example(), latency=False).macs
            / secateur.measure(whole, run.example(), latency=False).macs
        )
        level, rate = record["level"], run.history[1]["config"]["rate"]
        exact = record["prunable"] - round((1 - (1 - rate) ** level) * record["prunable"])
        slack = 4 if how.get("scope") == "local" else 0  # each group rounds
        assert abs(record["units_left"] - exact) <= slack
        with torch.no_grad():
            small.eval()(run.example())
    by_level = {(r["level"], r["start"]): r["units_left"] for r in records[1:]}
    assert all(by_level[level, "weights"] == by_level[level, "reinit"] for level, _ in by_level)
    assert searched(tmp_path, granularity=granularity, starts=("weights", "reinit"), **how) == records


def test_the_table_and_the_charts_count_channels(root: Path) -> None:
    outcome = Lottery(
        runs=("dense",), out="lot", granularity="channel", levels=1, starts=("weights",), charts="charts"
    )(root)
    assert outcome.table is not None
    assert [column.title for column in outcome.table.columns][:3] == ["Level", "Channels left", "MACs left"]
    assert "Channels left" in (root / "charts/lottery.svg").read_text()


def test_scratch_b_trains_for_as_many_macs(root: Path) -> None:
    records = searched(root, levels=2, starts=("weights", "scratch_b"))
    for level in (1, 2):
        (record,) = (r for r in records if (r["start"], r["level"]) == ("scratch_b", level))
        entry = Run.open(root / "lot" / record["run"]).history[-1]
        assert entry["config"]["epochs"] == round(DENSE["epochs"] / record["macs_left"])


def test_weights_of_a_smaller_network_can_be_a_ticket_too(root: Path) -> None:
    Prune(run="dense", granularity="channel", amount=0.4, out="small")(root)
    Ticket(run="small", origin="dense", rewind_to="2it", rate=0.5, out="ticket")(root)
    stored, origin = model_files.read(root / "ticket/model.safetensors"), read_snapshot(root / "dense", 2)
    assert stored.plan is not None
    for name, tensor in origin.items():
        expected = rows_of(stored.plan, name, tensor)
        mask = stored.masks.get(name)
        assert torch.equal(stored.state[name], expected if mask is None else expected * mask), name
    assert stored.masks.sparsity == pytest.approx(0.5, abs=1e-3)


@pytest.mark.slow
def test_a_search_for_channels_killed_at_any_moment_ends_with_the_same_files(
    root: Path,
    tmp_path: Path,
    fuse: Fuse,
) -> None:
    def kept(folder: Path) -> dict[str, Any]:
        files = {
            str(p.relative_to(folder)): p.read_bytes() for p in (folder / "lot").rglob("*") if p.is_file()
        }
        runs = {name: Run.open((folder / name).parent).history for name in files if name.endswith("run.json")}
        told = {name: [(e["config"], e["result"], e["weights"]) for e in runs[name]] for name in runs}
        return files | told

    whole = Path(shutil.copytree(root, tmp_path / "whole"))
    fuse.passed = 0
    searched(whole, starts=("weights", "reinit"))
    moments, expected = fuse.passed, kept(whole)
    for at in range(1, moments + 1, max(1, moments // 8)):
        stopped = Path(shutil.copytree(root, tmp_path / str(at)))
        with survived(fuse, at):
            searched(stopped, starts=("weights", "reinit"))
        searched(stopped, starts=("weights", "reinit"))
        assert kept(stopped) == expected, f"killed at moment {at} of {moments}"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["--granularity", "channel", "--levels", "2", "--starts", "weights,random"],
            "no masks to shuffle: leave the ",
        ),
        (["--granularity", "2:4", "--starts", "weights,reshuffle"], "keep no pattern 2:4"),
        (["--granularity", "head", "--levels", "2"], "no attention heads"),
        (["--granularity", "channel", "--levels", "60"], "go less far"),
        (
            ["--granularity", "channel", "--levels", "2", "--layer-rate", "conv=0.5"],
            "no part of one layer alone",
        ),
        (["--granularity", "channel", "--levels", "2", "--scope", "erk"], "no scope for units named 'erk'"),
        (["--granularity", "channels", "--levels", "2"], "no granularity 'channels'"),
    ],
)
def test_mistakes_get_one_sentence(
    words: list[str], reason: str, root: Path, secateur_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    ran = secateur_command("lottery", "dense", "--out", "lot", *words)
    assert ran.code == 2
    assert reason in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
    assert not list(root.glob("lot/*/run.json"))
