"""Going back: snapshots of a training, starting in the middle of a schedule, and rows more often than once an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_training import BATCH, COUNT, fresh, toy

import secateur
from secateur.core.errors import InputError, StoreError
from secateur.storage.container import write_container
from secateur.storage.model_files import write_tree
from secateur.training import read_snapshot, train

EPOCHS, PER_EPOCH = 3, -(-COUNT // BATCH)
PLAIN: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.1, "momentum": 0.0, "warmup": "1ep"}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("moment", ["1it", "3it", "2ep", "50%"])
def test_from_a_snapshot_and_its_moment_training_takes_the_same_course(moment: str, tmp_path: Path) -> None:
    whole, again = fresh(0.3), fresh(0.3)
    train(whole, toy(), **PLAIN, folder=tmp_path, snapshots=(moment,))
    done = secateur.training.Duration.parse(moment).iterations(PER_EPOCH, EPOCHS * PER_EPOCH)
    again.load_state_dict(read_snapshot(tmp_path, done))
    fitted = train(again, toy(), **PLAIN, start_at=moment)
    assert same(whole.state_dict(), again.state_dict())
    assert (fitted.rows[-1]["iteration"], fitted.resumed_at) == (EPOCHS * PER_EPOCH, 0)


def test_a_snapshot_of_the_beginning_and_of_the_end(tmp_path: Path) -> None:
    model = fresh()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, toy(), **PLAIN, folder=tmp_path, snapshots=("0it", "100%"))
    assert same(read_snapshot(tmp_path, 0), before)
    assert same(read_snapshot(tmp_path, EPOCHS * PER_EPOCH), model.state_dict())
    assert len(list((tmp_path / "snapshots").iterdir())) == 2


def test_a_snapshot_is_as_big_as_the_weights(tmp_path: Path) -> None:
    model = fresh()
    train(model, toy(), **PLAIN, folder=tmp_path, snapshots=("1it",))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert (tmp_path / "snapshots/1.safetensors").stat().st_size < weights + 2048


def test_a_snapshot_names_its_tensors_by_parameter(tmp_path: Path) -> None:
    model = fresh()
    train(model, toy(), **PLAIN, folder=tmp_path, snapshots=("100%",))
    found = load_file(tmp_path / f"snapshots/{EPOCHS * PER_EPOCH}.safetensors")
    assert same(found, dict(model.state_dict()))


def test_a_snapshot_of_an_older_version_is_read(tmp_path: Path) -> None:
    """Those had numbers for names, and the names in the header."""
    state = fresh().state_dict()
    numbered = {str(number): tensor for number, tensor in enumerate(state.values())}
    places = [[name, {"tensor": str(number)}] for number, name in enumerate(state)]
    path = tmp_path / "snapshots/3.safetensors"
    path.parent.mkdir()
    write_container(path, "tree", numbered, {"dict": [["model", {"dict": places}]]})
    assert same(read_snapshot(tmp_path, 3), dict(state))


@pytest.mark.parametrize("every", ["1ep", "2it", "5it", "100it"])
def test_rows_come_as_often_as_asked_and_training_does_not_notice(every: str) -> None:
    one, other = fresh(), fresh()
    rows = train(one, toy(), **PLAIN, evaluate_every=every).rows
    train(other, toy(), **PLAIN)
    total = EPOCHS * PER_EPOCH
    step = secateur.training.Duration.parse(every).iterations(PER_EPOCH, total)
    assert [row["iteration"] for row in rows] == sorted({*range(step, total, step), total})
    assert same(one.state_dict(), other.state_dict())


def test_a_training_from_the_middle_is_resumed_like_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = fresh(), fresh()
    how: dict[str, Any] = {**PLAIN, "start_at": "4it", "checkpoint_every": "1it"}
    rows = train(whole, toy(), **how).rows
    from secateur.training import loop

    taken, learn = [], loop._learn

    def twice(*arguments: Any) -> Any:
        taken.append(1)
        if len(taken) > 2:
            raise KeyboardInterrupt
        return learn(*arguments)

    monkeypatch.setattr(loop, "_learn", twice)
    with pytest.raises(KeyboardInterrupt):
        train(killed, toy(), **how, folder=tmp_path)
    monkeypatch.undo()
    fitted = train(killed, toy(), **how, folder=tmp_path)
    assert fitted.resumed_at == 6
    assert fitted.rows == rows
    assert same(whole.state_dict(), killed.state_dict())


def test_killed_after_any_checkpoint_no_snapshot_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = fresh(), fresh()
    train(whole, toy(), **PLAIN, folder=tmp_path / "whole", snapshots=("0it", "4it", "9it"))
    from secateur.training.checkpoint import Checkpoint

    write = Checkpoint.write

    def once(self: Checkpoint, state: Any) -> None:
        write(self, state)
        raise KeyboardInterrupt

    how: dict[str, Any] = {**PLAIN, "checkpoint_every": "1it", "snapshots": ("0it", "4it", "9it")}
    monkeypatch.setattr(Checkpoint, "write", once)
    for _ in range(1 + EPOCHS * PER_EPOCH):
        with pytest.raises(KeyboardInterrupt):
            train(killed, toy(), **how, folder=tmp_path / "killed")
    monkeypatch.undo()
    train(killed, toy(), **how, folder=tmp_path / "killed")
    for moment in (0, 4, 9):
        assert same(read_snapshot(tmp_path / "whole", moment), read_snapshot(tmp_path / "killed", moment))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"start_at": "3ep"}, "Training can't start at 3ep: it ends after 9 iterations"),
        ({"start_at": "soon"}, "'soon' is no span of training"),
        ({"start_at": "1ep", "method": "gradual", "amount": 0.5}, "leave start_at out"),
        ({"snapshots": ("1it",)}, "give a folder"),
    ],
)
def test_what_can_not_be_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        train(fresh(), toy(), **PLAIN, **settings)


def test_a_snapshot_past_the_end_or_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no snapshot after 4ep: the training ends after 9 iterations"):
        train(fresh(), toy(), **PLAIN, folder=tmp_path, snapshots=("4ep",))
    with pytest.raises(StoreError, match=r"7\.safetensors is missing: train with snapshots=\['7it'\]"):
        read_snapshot(tmp_path, 7)
    write_tree(tmp_path / "snapshots/7.safetensors", {"iteration": 7})
    with pytest.raises(StoreError, match=r"7\.safetensors is no snapshot"):
        read_snapshot(tmp_path, 7)
