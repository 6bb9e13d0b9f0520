"""Training in two processes: the same result as in one, one writer, and errors that come back as they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessException
from torch.nn import functional
from toy_training import toy

import secateur
from secateur.core.errors import InputError, ModelError, StoreError
from secateur.training import TrainConfig, processes, train
from secateur.training.loop import fit, make_fabric

TWO = {"devices": 2, "accelerator": "cpu"}
SETTINGS: dict[str, Any] = {
    "batch_size": 16, "lr": 0.05, "schedule": "constant", "clip_norm": 0.5, "ema": 0.5, "nesterov": True,
}  # fmt: skip
IDENTITY = {"shared": "by the runs that continue each other"}


class Net(nn.Module):
    """No normalisation, no dropout, and a layer that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(36, 4)
        self.unused = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(functional.max_pool2d(functional.relu(self.conv(images)), 2).flatten(1))


class Local:
    """Makes a class that no other process can import."""

    @staticmethod
    def model() -> nn.Module:
        class Hidden(Net):
            pass

        return Hidden()


def fresh() -> Net:
    torch.manual_seed(0)
    return Net()


MASKS = {"head.weight": torch.arange(144).reshape(4, 36) % 3 > 0}


@pytest.mark.slow
def test_one_process_two_and_one_again_train_what_one_does(tmp_path: Path) -> None:
    """45 samples in batches of 16: the last batch of 13 is shared out as 6 and 7."""
    undisturbed, model = fresh(), fresh()
    random = torch.get_rng_state()
    alone = train(undisturbed, toy(), masks=MASKS, epochs=4, **SETTINGS)
    variables = dict(os.environ)
    common: dict[str, Any] = {"masks": MASKS, "identity": IDENTITY, "folder": tmp_path, **SETTINGS}
    train(fresh(), toy(), epochs=1, **common)
    both = train(model, toy(), epochs=3, **TWO, **common)
    assert both.resumed_at == 3
    assert [row["iteration"] for row in both.rows] == [3, 6, 9]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert not model.head.weight[~MASKS["head.weight"]].any()
    assert dict(os.environ) == variables
    whole = train(model, toy(), epochs=4, **common)
    assert whole.resumed_at == 9
    for (name, value), wanted in zip(
        model.state_dict().items(), undisturbed.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5, msg=name)
    for row, expected in zip(whole.rows, alone.rows, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
        assert all(row[name] == expected[name] for name in ("iteration", "lr", "train_top1", "top1", "top5"))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == whole.rows
    assert torch.equal(torch.get_rng_state(), random)


def test_an_error_of_a_process_comes_back_as_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one counts: what other processes meet follows from it."""
    monkeypatch.setenv(processes.EXCHANGE, str(tmp_path))
    (tmp_path / "metrics.jsonl").mkdir()
    config = TrainConfig(**SETTINGS)
    arguments = {"config": config, "folder": tmp_path, "masks": MASKS}
    parcel = processes._pack(tmp_path / processes.TENSORS, fresh(), toy(), arguments)
    monkeypatch.setattr(processes, "_fetch", lambda socket: parcel)
    with pytest.raises(StoreError) as caught:
        processes._work(make_fabric(config))
    processes._report(ModelError("The connection was closed."))
    told = processes._reason(tmp_path, ProcessException("", 0, 1))
    assert isinstance(told, StoreError)
    assert "metrics.jsonl" in str(told)
    assert str(told) == str(caught.value)


def test_batches_too_small_for_the_processes_are_refused() -> None:
    fabric: Any = SimpleNamespace(world_size=2, global_rank=0, device=torch.device("cpu"))
    with pytest.raises(InputError, match="Batches of 1 can't be shared out over 2 devices"):
        fit(fresh(), toy(), TrainConfig(batch_size=1), fabric)


def test_what_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ModelError, match="Hidden can't be sent to other processes"):
        train(Local.model(), toy(), **TWO)
    with pytest.raises(InputError, match="Cannot train on 2 × abacus"):
        train(fresh(), toy(), devices=2, accelerator="abacus")


def test_in_an_interactive_session_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.raises(InputError, match=r"if __name__ == '__main__':, or train with devices=1"):
        train(fresh(), toy(), **TWO)


def python(*words: str, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_trains_in_two_processes(tmp_path: Path) -> None:
    """With BatchNorm: the accuracy told is that of the model kept, not of some process's own statistics."""
    words = (
        "-m secateur train --model convnet --data digits --epochs 2 --devices 2 --accelerator cpu --out run"
    )
    process = python(*words.split(), folder=tmp_path)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert len(output.splitlines()) == 1
    run = secateur.Run.open(tmp_path / "run")
    model, _ = run.load_model()
    found = secateur.evaluate(model, run.load_data())
    assert found["top1"] == pytest.approx(run.history[0]["result"]["top1"], abs=1e-8)
    assert found["loss"] == pytest.approx(run.history[0]["result"]["loss"], rel=1e-5)
    assert not (tmp_path / "run/checkpoint.safetensors").exists()


SCRIPT = """
import secateur
from torch import nn

class Net(nn.Sequential):
    "So deep that even without its tensors it does not fit into a pipe."

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10), *(nn.Identity() for _ in range(2000)))

def main():
    data = secateur.load_data("digits")
    secateur.train(Net(), data, epochs=1000, devices=2, accelerator="cpu", folder="run")

"""


@pytest.mark.slow
def test_a_script_with_a_main_guard_trains_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    """Only the parent is interrupted here; on a terminal, its processes are as well."""
    (tmp_path / "script.py").write_text(SCRIPT + 'if __name__ == "__main__":\n    main()\n')
    process = python("script.py", folder=tmp_path)
    log = tmp_path / "run/metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 15
    assert errors.endswith("KeyboardInterrupt\n")
    length = log.stat().st_size
    time.sleep(0.3)
    assert log.stat().st_size == length, "a process trains on"
    assert (tmp_path / "run/checkpoint.safetensors").exists()


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT + "main()\n")
    process = python("script.py", folder=tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.count("Traceback") == 1
    assert "InputError: Several devices mean several processes" in errors.splitlines()[-1]
    assert output == ""
