"""Methods through closures, and in the Trainers of other libraries where those are installed."""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import QUICK, STEPS, batch, begin, fresh, optimizer_of, same, whole
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from secateur import METHODS, InputError, Masks, MissingExtraError, ModelError
from secateur.methods import callbacks, start

EXAMPLE = torch.ones(2, 10)


def wanted(name: str) -> dict[str, Any]:
    entry = METHODS[name]
    own = {option: value for option, value in QUICK.items() if option in entry.options}
    amount = {} if entry.make.amount == "none" else {"amount": 0.6}
    return {"example_inputs": EXAMPLE, **own, **amount}


@pytest.mark.parametrize("name", METHODS)
def test_a_step_with_a_closure_is_the_same_step(name: str) -> None:
    """Gradients are made inside of `optimizer.step(closure)`, as Lightning does it."""
    expected, masks = whole(name)
    model = fresh()
    optimizer = optimizer_of(model)
    method = begin(name, model, optimizer)
    model.train()
    for step in range(STEPS):

        def closure(step: int = step) -> torch.Tensor:
            inputs, labels = batch(step)
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), labels) + method.penalty()
            loss.backward()
            return loss

        optimizer.step(closure)
    again = method.finish()
    assert same(model, expected)
    assert all(torch.equal(masks[key], again[key]) for key in masks)


def test_held_masks_zero_gradients_made_in_a_closure() -> None:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    Masks({"weight": mask}).hold(layer, optimizer)
    optimizer.step(lambda: layer(torch.ones(1, 3)).sum().backward())
    assert not optimizer.state[layer.weight]["momentum_buffer"][~mask].any()
    assert optimizer.state[layer.weight]["momentum_buffer"][mask].all()


class Samples(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 16 * STEPS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        inputs, labels = batch(index // 16)
        return {"x": inputs[index % 16], "labels": labels[index % 16]}


class Wrapped(nn.Module):
    """What Transformers' Trainer trains: a module that returns its loss."""

    _keys_to_ignore_on_save = None

    def __init__(self) -> None:
        super().__init__()
        self.net = fresh()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.net(x)
        loss = {} if labels is None else {"loss": functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


def by_hand(name: str) -> tuple[nn.Module, Masks]:
    """The plain loop; draws go by the names of parameters, so the model is wrapped alike."""
    model = Wrapped().train()
    optimizer = optimizer_of(model)
    method = start(name, model, optimizer, steps=STEPS, **{**wanted(name), "example_inputs": {"x": EXAMPLE}})
    for step in range(STEPS):
        optimizer.zero_grad()
        (model(*batch(step))["loss"] + method.penalty()).backward()
        optimizer.step()
    return model.net, method.finish()


def alike(model: nn.Module, masks: Masks, name: str) -> bool:
    expected, wanted_masks = by_hand(name)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[key], msg=key)
    return masks.keys() == wanted_masks.keys() and all(torch.equal(masks[k], wanted_masks[k]) for k in masks)


def by_transformers(name: str, folder: Path, resume: bool = False, **more: Any) -> tuple[nn.Module, Masks]:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model = Wrapped()
    optimizer = optimizer_of(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    callback = callbacks.hugging_face(name, **{**wanted(name), "example_inputs": {"x": EXAMPLE}})
    arguments = transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=16, num_train_epochs=1, max_grad_norm=0.0, report_to=[],
        use_cpu=True, disable_tqdm=True, **{"save_strategy": "no", **more},
    )  # fmt: skip

    class InOrder(transformers.Trainer):  # type: ignore[name-defined, misc]
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    trainer = InOrder(
        model, arguments, train_dataset=Samples(), optimizers=(optimizer, scheduler), callbacks=[callback]
    )
    trainer.train(resume_from_checkpoint=resume or None)
    return model.net, callback.masks


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_trainer_of_transformers_does_what_a_plain_loop_does(name: str, tmp_path: Path) -> None:
    assert alike(*by_transformers(name, tmp_path), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradual", "rigl", "growing"])
def test_the_trainer_of_transformers_goes_on_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 5}
    model, masks = by_transformers(name, tmp_path, **saving)
    for late in tmp_path.glob("checkpoint-1*"):
        shutil.rmtree(late)
    again, found = by_transformers(name, tmp_path, resume=True, **saving)
    assert all(torch.equal(masks[key], found[key]) for key in masks)
    assert same(model, again)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_trainer_of_lightning_does_what_a_plain_loop_does(name: str, tmp_path: Path) -> None:
    library = pytest.importorskip("lightning")

    class Module(library.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = fresh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, given: Any, number: int) -> torch.Tensor:
            return functional.cross_entropy(self.net(given["x"]), given["labels"])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer_of(self)

    callback = callbacks.lightning(name, **wanted(name))
    module = Module()
    trainer = library.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(Samples(), 16))
    assert alike(module.net, callback.masks, name)


@pytest.mark.parametrize("make", [callbacks.hugging_face, callbacks.lightning])
def test_a_missing_library_is_named(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("transformers", "lightning", "lightning.pytorch.callbacks"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=r"needs the package .*: install it with pip install"):
        make("gradual", amount=0.5)


def test_an_unknown_method_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="no method named 'magic'"):
        callbacks.Pruning("magic", {})


def test_scores_are_included_in_a_scheduler_made_before() -> None:
    model = fresh()
    optimizer = optimizer_of(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    pruning = callbacks.Pruning("movement", {"amount": 0.5, "score_lr": 0.2})
    pruning.begin(model, optimizer, [scheduler], steps=4)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.1])
    pruning.end()
    assert pruning.masks.sparsity == pytest.approx(0.5, abs=0.01)


def test_scores_cannot_go_on_through_a_callback() -> None:
    model = fresh()
    pruning = callbacks.Pruning("movement", {"amount": 0.5})
    with pytest.raises(ModelError, match="The scores of movement can't go on from a checkpoint"):
        pruning.begin(model, optimizer_of(model), [], 4, state=copy.deepcopy({"step": 1}))
