"""Methods in `secateur.train`, in steps and on the command line: exact, resumable, the same in two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import Fuse, survived
from method_runs import QUICK
from torch import Tensor, nn
from torch.nn import functional
from toy_training import BATCH, same, toy

import secateur
from secateur import METHODS, InputError, Masks, evaluate, train
from secateur.runs.run import Run
from secateur.steps import Context
from secateur.steps.train import Retrain, Train


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.outer = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.outer(functional.relu(self.norm(self.inner(maps))))


class Net(nn.Module):
    """Two residual blocks, dropout and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Residual(), Residual())
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.blocks(self.stem(images)).flatten(1)))


def fresh() -> Net:
    torch.manual_seed(0)
    return Net()


def settings(name: str, **more: Any) -> dict[str, Any]:
    entry = METHODS[name]
    amount = {} if entry.make.amount == "none" else {"amount": 0.5}
    options = {key: value for key, value in QUICK.items() if key in entry.options}
    return {
        "epochs": 2, "batch_size": BATCH, "lr": 0.02, "checkpoint_every": "2it", "method": name, **amount,
        "options": options, **more,
    }  # fmt: skip


def trained(name: str, folder: Path | None = None, **more: Any) -> tuple[Net, Masks]:
    model = fresh()
    return model, train(model, toy(), folder=folder, **settings(name, **more)).masks


@pytest.mark.parametrize("name", METHODS)
def test_a_training_killed_at_any_moment_ends_with_the_same_bits(
    name: str,
    fuse: Fuse,
    tmp_path: Path,
) -> None:
    more = {"clip_norm": 0.5, "precision": "bf16-mixed", "optimizer": "adamw"}
    model, masks = trained(name, tmp_path / "undisturbed", **more)
    log, moments = (tmp_path / "undisturbed/metrics.jsonl").read_bytes(), fuse.passed
    for at in range(2, moments - 1, 8):  # at the last ones it is done, and would rightly be repeated
        folder = tmp_path / str(at)
        with survived(fuse, at):
            trained(name, folder, **more)
        again, cut = trained(name, folder, **more)
        assert same(again.state_dict(), model.state_dict()), f"killed at moment {at} of {moments}"
        assert (folder / "metrics.jsonl").read_bytes() == log
        assert all(torch.equal(cut[key], masks[key]) for key in masks)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_keeps_the_masks_in_its_run(name: str, tmp_path: Path) -> None:
    common = {"train_subset": 100, "batch_size": 40, "epochs": 2, **settings(name, batch_size=40)}
    example = {"model": "resnet20", "data": "digits"}
    train_step = Train(out="run", **{**example, **common})
    told = train_step.perform(Context(tmp_path)).lines[0]
    run = Run.open(tmp_path / "run")
    _, masks = run.load_model()
    result = run.history[0]["result"]
    assert result["cut"] == Masks(masks).sparsity
    assert f"after train, {100 * result['cut']:.2f} % cut" in told
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all("cut" in row for row in rows)
    assert "already" in train_step.perform(Context(tmp_path)).lines[0]


def test_masks_are_of_the_model_evaluated() -> None:
    model, masks = trained("gradual")
    assert masks.pruned == round(0.5 * masks.total)
    for parameter, mask in masks.of(model):
        assert not parameter[~mask].any()
    evaluate(model, toy())


def test_an_average_is_cut_too() -> None:
    model, masks = trained("gradual", ema=0.9)
    for parameter, mask in masks.of(model):
        assert not parameter[~mask].any()


def test_retraining_goes_on_from_earlier_masks(tmp_path: Path) -> None:
    common: dict[str, Any] = {"batch_size": 40, "epochs": 1}
    Train(out="run", model="lenet300", data="digits", train_subset=100, **common).perform(Context(tmp_path))
    for amount in (0.4, 0.7):
        Retrain(run="run", method="gradual", amount=amount, every=1, again=True, **common).perform(
            Context(tmp_path)
        )
        _, masks = Run.open(tmp_path / "run").load_model()
        assert Masks(masks).pruned == round(amount * Masks(masks).total)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "magic"}, "no method named 'magic'"),
        ({"amount": 0.5}, "name one with method"),
        ({"options": {"every": 3}}, "name one with method"),
        ({"method": "rigl"}, "needs an amount"),
        ({"method": "rigl", "amount": 0.5, "options": {"colour": 1}}, "no option 'colour'"),
        ({"method": "slimming", "amount": 0.5}, "cuts nothing by itself"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        train(fresh(), toy(), **given)


def test_the_command_line_takes_methods_and_their_options(secateur_command: Any, tmp_path: Path) -> None:
    words = ["train", "--model", "lenet300", "--data", "digits", "--train-subset", "100", "--epochs", "2"]
    words += ["--batch-size", "40", "--out", "run", "--method", "rigl", "--amount", "0.9"]
    ran = secateur_command(*words, "--every", "2", "--option", "fraction=0.4", "--keep", "fc3")
    assert ran.code == 0, ran.err
    config = Run.open(tmp_path / "run").history[0]["config"]
    assert config["options"] == {"every": 2, "fraction": 0.4, "keep": "fc3"}
    refused = secateur_command(*words[:-2], "--overwrite")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        "secateur: The method rigl needs an amount: amount=0.9 cuts 90 % of the prunable weights.\n"
    )


def test_the_command_line_tells_that_nothing_was_cut(secateur_command: Any) -> None:
    words = ["train", "--model", "lenet300", "--data", "digits", "--train-subset", "100", "--epochs", "1"]
    ran = secateur_command(*words, "--out", "run", "--method", "l0")
    assert ran.code == 0
    assert "0.00 % cut" in ran.out
    assert ran.err.startswith("secateur: The method l0 has cut nothing: make the penalty larger (strength)")
    assert ran.err.count("\n") == 1


class Plain(nn.Module):
    """Residual, without normalisation or dropout, so that a batch may be shared out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 12)
        self.blocks = nn.Sequential(Pair(), Pair())
        self.head = nn.Linear(12, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images.flatten(1))))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(12, 8), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(functional.relu(self.inner(x)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rigl", "l0", "group_lasso", "layerdrop"])
def test_two_processes_prune_as_one_does(name: str) -> None:
    results = []
    for where in ({}, {"devices": 2, "accelerator": "cpu"}):
        torch.manual_seed(0)
        model = Plain()
        fitted = train(model, toy(), **settings(name, clip_norm=0.5, lr=0.05), **where)
        results.append((model, fitted.masks))
    (one, masks), (two, again) = results
    assert masks.keys() == again.keys()
    assert all(torch.equal(masks[key], again[key]) for key in masks)
    for (key, value), wanted in zip(two.state_dict().items(), one.state_dict().values(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", ["gradual", "group_lasso", "growing", "targeted_dropout", "rigl"])
def test_the_last_row_is_of_the_model_that_is_left(name: str) -> None:
    data = secateur.load_data("digits")
    torch.manual_seed(0)
    model = secateur.build("convnet", num_classes=10, input_shape=data.input_shape)
    result = secateur.train(model, data, epochs=2, batch_size=128, lr=0.1, method=name, amount=0.6)
    row = result.rows[-1]
    assert {key: row[key] for key in ("top1", "loss")} == pytest.approx(
        {key: value for key, value in secateur.evaluate(model, data).items() if key in ("top1", "loss")},
        rel=1e-6,
    )
    assert row["cut"] == pytest.approx(result.masks.sparsity, abs=1e-9)
    assert row["cut"] > 0.3


def test_an_optimiser_of_another_model_is_refused() -> None:
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match="The optimiser holds none of the model's parameters"):
        secateur.methods.start(
            "gradual", model, torch.optim.SGD(other.parameters(), lr=0.1), steps=3, amount=0.5
        )
