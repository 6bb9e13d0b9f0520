"""Training in one process: against a plain loop, with masks, averages and clipping, and what it leaves alone."""

from __future__ import annotations

import io
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional
from toy_training import BATCH, COUNT, Net, copied, fresh, half_cut, same, toy

import secateur
from secateur.core import progress
from secateur.core.errors import InputError, MissingExtraError, ModelError
from secateur.data import Batches, Dataset
from secateur.training import TrainConfig, train
from secateur.training.learning_rate import learning_rate
from secateur.training.optimizers import OPTIMIZERS

OPTIMIZER_SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    "adam": {"lr": 0.01},
    "adamw": {"lr": 0.01},
}


def plain_loop(
    model: Net, data: Dataset, config: TrainConfig, masks: dict[str, Tensor]
) -> tuple[nn.Module, list[Tensor]]:
    """The same training by hand: torch's optimiser, its clipping, masks multiplied in, an average in float64."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = {
        "sgd": lambda: torch.optim.SGD(
            weights, config.lr, config.momentum, nesterov=config.nesterov, weight_decay=config.weight_decay
        ),
        "adam": lambda: torch.optim.Adam(weights, config.lr, weight_decay=config.weight_decay),
        "adamw": lambda: torch.optim.AdamW(weights, config.lr, weight_decay=config.weight_decay),
    }[config.optimizer]()
    named = dict(model.named_parameters())
    batches = Batches(data, "train", config.batch_size, shuffle=True, seed=config.seed)
    average: list[Tensor] = []
    norms = []
    for name, mask in masks.items():
        named[name].data[~mask] = 0
    model.train()
    for iteration in range(config.epochs * len(batches)):
        batch = next(batches.epoch(iteration // len(batches), iteration % len(batches)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(iteration, len(batches), config)
        optimizer.zero_grad()
        functional.cross_entropy(
            model(batch.inputs), batch.labels, label_smoothing=config.label_smoothing
        ).backward()
        for name, mask in masks.items():
            named[name].grad[~mask] = 0  # type: ignore[index]
        norms.append(torch.linalg.vector_norm(torch.cat([w.grad.flatten() for w in weights])))  # type: ignore[union-attr]
        if config.clip_norm is not None and norms[-1] > config.clip_norm:
            for weight in weights:
                weight.grad *= config.clip_norm / (norms[-1] + 1e-6)  # type: ignore[operator]
        optimizer.step()
        for name, mask in masks.items():
            named[name].data[~mask] = 0
        state = [value.double() for value in model.state_dict().values()]
        decay = config.ema or 0.0
        average = (
            [decay * a + (1 - decay) * s for a, s in zip(average, state, strict=True)] if average else state
        )
    assert config.clip_norm is None or max(norms) > config.clip_norm
    return model, average


def explained(name: str, difference: str) -> str:
    return f"{name}: {difference}"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize(
    "extra",
    [{}, {"clip_norm": 0.3}, {"ema": 0.8}, {"label_smoothing": 0.1, "schedule": "constant", "warmup": "4it"}],
    ids=["usual", "clipped", "averaged", "smoothed"],
)
def test_training_is_the_plain_loop(optimizer: str, pruned: bool, extra: dict[str, Any]) -> None:
    """Clipping with masks must not count the gradients of cut weights: the plain loop doesn't."""
    config = TrainConfig(
        epochs=3,
        batch_size=BATCH,
        optimizer=optimizer,
        weight_decay=0.01,
        channels_last=False,
        **OPTIMIZER_SETTINGS[optimizer],
        **extra,
    )
    masks = half_cut(Net()) if pruned else {}
    model = fresh()
    train(model, toy(), config, masks=masks)
    oracle, average = plain_loop(fresh(), toy(), config, masks)
    expected = average if config.ema else list(oracle.state_dict().values())
    for (name, value), wanted in zip(model.state_dict().items(), expected, strict=True):
        if value.is_floating_point():
            torch.testing.assert_close(
                value.double(), wanted.double(), rtol=1e-4, atol=1e-5, msg=partial(explained, name)
            )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "extra", [{}, {"ema": 0.9}, {"precision": "bf16-mixed"}, {"clip_norm": 0.1}], ids=str
)
def test_cut_weights_stay_exactly_zero(optimizer: str, extra: dict[str, Any]) -> None:
    model = fresh()
    masks = half_cut(model)
    train(
        model, toy(), masks=masks, epochs=2, batch_size=BATCH, optimizer=optimizer, weight_decay=0.1, **extra
    )
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        assert weight[mask].all()


@pytest.mark.parametrize("ema", [None, 0.9])
def test_without_an_epoch_nothing_changes_but_the_cuts(ema: float | None) -> None:
    model = fresh()
    before, masks = copied(model), half_cut(model)
    result = train(model, toy(), masks=masks, epochs=0, ema=ema)
    assert result.rows == []
    after = copied(model)
    for name, mask in masks.items():
        before[name][~mask] = 0
    assert same(before, after)


def test_training_learns_and_says_so() -> None:
    model, data = fresh(), toy(200)
    rows = train(model, data, epochs=6, batch_size=BATCH, lr=0.05).rows
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["iteration"] for row in rows] == [13 * epoch for epoch in range(1, 7)]
    assert rows[-1]["top1"] == 1.0
    found = secateur.evaluate(model, data)
    assert found["top1"] == rows[-1]["top1"]
    assert found["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-5)


def test_the_training_numbers_weigh_an_uneven_last_batch_by_what_it_holds() -> None:
    """With a frozen learning rate near zero, the epoch's numbers are those of the untouched model."""
    model = fresh()
    model.norm.requires_grad_(False).eval()
    expected = secateur.evaluate(model, toy(), split="train")
    row = train(model, toy(), epochs=1, batch_size=BATCH, lr=1e-12, weight_decay=0).rows[0]
    assert row["train_top1"] == pytest.approx(expected["top1"], abs=1e-9)
    assert row["train_loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_a_last_batch_of_one_is_left_out_and_batches_of_one_are_not() -> None:
    row = train(fresh(), toy(33), epochs=1, batch_size=16).rows[0]
    assert row["iteration"] == 3
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    before = copied(linear)
    assert train(linear, toy(3), epochs=1, batch_size=1).rows[0]["train_loss"] > 0
    assert not same(before, copied(linear))


def test_the_average_is_what_is_measured_and_kept() -> None:
    model, data = fresh(), toy()
    rows = train(model, data, epochs=2, batch_size=BATCH, ema=0.97).rows
    assert secateur.evaluate(model, data)["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-5)
    other = fresh()
    plain = train(other, data, epochs=2, batch_size=BATCH).rows
    assert [row["train_loss"] for row in plain] == [row["train_loss"] for row in rows]
    assert plain[-1]["loss"] != rows[-1]["loss"]


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    def trained(seed: int) -> dict[str, Tensor]:
        model = fresh(dropout=0.5)
        train(model, toy(augmentation="crop-flip"), epochs=2, batch_size=BATCH, seed=seed)
        return copied(model)

    assert same(trained(1), trained(1))
    assert not same(trained(1), trained(2))


def test_frozen_layers_stay_frozen() -> None:
    model = fresh()
    model.norm.requires_grad_(False)
    model.hidden.weight.requires_grad_(False)
    before = copied(model)
    train(
        model,
        toy(),
        masks={"hidden.weight": torch.ones(12, 64, dtype=torch.bool)},
        epochs=1,
        batch_size=BATCH,
    )
    changed = {name for name, value in copied(model).items() if not torch.equal(value, before[name])}
    assert changed == {"conv.weight", "hidden.bias", "head.weight", "head.bias"}
    assert not model.hidden.weight.requires_grad
    assert model.head.weight.requires_grad


@pytest.mark.parametrize("lr", [0.05, 1e6], ids=["done", "diverged"])
def test_what_was_lent_comes_back(lr: float) -> None:
    """Global random state, modes, memory layout, hooks and gradients, whether training ends well or not."""
    model = fresh()
    model.dropout.eval()
    masks = half_cut(model)
    torch.manual_seed(11)
    random = torch.get_rng_state()
    if lr > 1:
        with pytest.raises(ModelError):
            train(model, toy(), masks=masks, epochs=5, batch_size=BATCH, lr=lr)
    else:
        train(model, toy(), masks=masks, epochs=1, batch_size=BATCH, lr=lr)
        assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.children()] == [True, True, False, True, True]
    assert model.conv.weight.is_contiguous()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    functional.cross_entropy(model(torch.ones(8, 1, 8, 8)), torch.zeros(8, dtype=torch.long)).backward()
    model.conv.weight.data.fill_(1.0)
    optimizer.step()
    assert model.conv.weight.all(), "the masks still hold after training"


@pytest.mark.parametrize("extra", [{}, {"clip_norm": 1.0}, {"epochs": 1, "batch_size": COUNT}], ids=str)
def test_a_training_that_diverges_says_so(extra: dict[str, Any], tmp_path: Path) -> None:
    settings = {"epochs": 6, "batch_size": BATCH, "lr": 1e20, **extra}
    with pytest.raises(ModelError, match=r"infinite or NaN in epoch \d: try a lower learning rate\.$"):
        train(
            fresh(),
            toy(),
            folder=tmp_path,
            optimizer="adam",
            weight_decay=1.0,
            checkpoint_every="1it",
            **settings,
        )
    assert not (tmp_path / "checkpoint.safetensors").exists(), "a lost training must not stand in the way"


def test_models_that_cannot_be_trained_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no trainable parameter"):
        train(fresh().requires_grad_(False), toy())
    with pytest.raises(ModelError, match="no trainable parameter"):
        train(nn.Flatten(), toy())
    with pytest.raises(ModelError, match="4 classes: build the model with num_classes=4"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), toy(), folder=tmp_path)
    with pytest.raises(ModelError, match="cannot take the 1×8×8 inputs of toy"):
        train(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()), toy(), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="There is no setting 'epoch'"):
        train(fresh(), toy(), epoch=3)
    with pytest.raises(InputError, match="Cannot train on 1 × abacus"):
        train(fresh(), toy(), accelerator="abacus")
    with pytest.raises(InputError, match="no augmentation named 'crp'"):
        train(fresh(), toy(), augment="crp")
    with pytest.raises(InputError, match="a parameter this model does not have"):
        train(fresh(), toy(), masks={"gone": torch.ones(2, dtype=torch.bool)})


def test_settings_add_to_a_config() -> None:
    rows = train(fresh(), toy(), TrainConfig(epochs=5, batch_size=BATCH), epochs=2).rows
    assert [row["iteration"] for row in rows] == [3, 6]


def test_half_precision_trains_nearly_the_same() -> None:
    full, half = fresh(), fresh()
    one = train(full, toy(), epochs=4, batch_size=BATCH, lr=0.02).rows
    other = train(half, toy(), epochs=4, batch_size=BATCH, lr=0.02, precision="bf16-mixed").rows
    assert half.head.weight.dtype == torch.float32
    assert not same(copied(full), copied(half))
    assert other[-1]["loss"] == pytest.approx(one[-1]["loss"], rel=0.1)


def test_the_log_holds_one_row_an_epoch_and_is_appended_to(tmp_path: Path) -> None:
    common: dict[str, Any] = {"folder": tmp_path, "batch_size": BATCH}
    first = train(fresh(), toy(), context={"step": 0, "do": "train"}, epochs=2, **common).rows
    second = train(fresh(), toy(), context={"step": 1, "do": "retrain"}, epochs=1, **common).rows
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == first + second
    assert list(lines[0]) == [
        "step", "do", "epoch", "iteration", "lr", "train_loss", "train_top1", "loss", "top1", "top5",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def points(folder: Path) -> list[tuple[str, str, int, float]]:
    """Every scalar in the TensorBoard files below `folder`, hidden and repeated ones included."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    return sorted(
        (path.parent.name, value.tag, event.step, float(tensor_util.make_ndarray(value.tensor)))
        for path in folder.rglob("events.out*")
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    )


def test_tensorboard_files_hold_each_point_once_also_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secateur.training import loop

    settings: dict[str, Any] = {
        "epochs": 4,
        "batch_size": BATCH,
        "tensorboard": True,
        "checkpoint_every": "2ep",
    }
    evaluations = []

    def stops(*args: Any, **options: Any) -> dict[str, float]:
        evaluations.append(1)
        if len(evaluations) == 3:
            raise KeyboardInterrupt
        return secateur.evaluate(*args, **options)

    monkeypatch.setattr(loop, "evaluate", stops)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), toy(), folder=tmp_path, **settings)
    result = train(fresh(), toy(), folder=tmp_path, **settings)
    assert result.resumed_at == 6
    expected = [
        ("train", name, row["iteration"], pytest.approx(value, rel=1e-6))
        for row in result.rows
        for name, value in row.items()
        if isinstance(value, float)
    ]
    assert points(tmp_path) == sorted(expected, key=lambda point: point[:3])


def test_without_tensorboard_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'secateur\[tensorboard\]'"):
        train(fresh(), toy(), folder=tmp_path, tensorboard=True)


def test_nothing_is_said_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    train(fresh(), toy(), epochs=1, batch_size=BATCH)
    secateur.evaluate(fresh(), toy())
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_a_bar_shows_progress_accuracy_and_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "console", lambda: Console(file=screen, force_terminal=True, width=80, no_color=True)
    )
    row = train(fresh(), toy(), epochs=2, batch_size=BATCH, context={"do": "retrain"}).rows[-1]
    last = screen.getvalue().rpartition("\r")[2]
    assert "retrain" in last
    assert "6/6" in last
    assert f"top-1 {row['top1']:.2%}  loss {row['train_loss']:.3f}" in last
    assert "evaluate" not in screen.getvalue()


def test_infinities_become_null_in_the_log(tmp_path: Path) -> None:
    from secateur.training.journal import Journal, read_journal

    journal = Journal(tmp_path)
    row = journal.write(loss=math.inf, other=math.nan, third=1 / 3)
    assert row == {"loss": None, "other": None, "third": 0.333333333}
    assert read_journal(tmp_path) == [row]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"loss": 1')
    assert read_journal(tmp_path) == [row]
