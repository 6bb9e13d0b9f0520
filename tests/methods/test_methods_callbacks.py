"""Methods through closures, and in the Trainers of other libraries where those are installed."""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import QUICK, STEPS, batch, begin, fresh, optimizer_of, same, whole
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

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


class Flat(Dataset[dict[str, torch.Tensor]]):
    """The samples of the loop, of a number of steps of one's own."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return 16 * self.steps

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return Samples()[index % (16 * STEPS)]


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        yield from (Samples()[number] for number in range(16 * 6))


def lightning_fit(
    others: Any, callback: Any, data: Any, noted: list[float] | None = None, last: bool = False, **how: Any
) -> Any:
    """Train with other callbacks, after ours unless `last`; note the norm of gradients after clipping, step by step."""
    library = pytest.importorskip("lightning")

    class Module(library.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = fresh()

        def training_step(self, given: Any, number: int) -> torch.Tensor:
            return functional.cross_entropy(self.net(given["x"]), given["labels"])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05)

        def configure_gradient_clipping(self, optimizer: Any, *given: Any, **more: Any) -> None:
            super().configure_gradient_clipping(optimizer, *given, **more)
            if noted is not None:
                noted.append(norm_of(self))

    module = Module()
    ours = [*others, callback] if last else [callback, *others]
    library.Trainer(
        accelerator="cpu", callbacks=ours, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **{"max_epochs": 4, **how},
    ).fit(module, DataLoader(data, 16))  # fmt: skip
    return module


def norm_of(model: nn.Module) -> float:
    grads = [each.grad for each in model.parameters() if each.grad is not None]
    return float(torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in grads])))


def cut_is_zero(model: nn.Module, masks: Masks) -> bool:
    assert masks.sparsity == pytest.approx(0.6, abs=0.01)
    return all(not bool(parameter[~mask].any()) for parameter, mask in masks.of(model))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["swa", "average", "ema"])
def test_cut_weights_are_zero_whatever_averages_weights(kind: str, last: bool) -> None:
    pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging

    made: dict[str, Any] = {
        "swa": lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1),
        "average": lambda: WeightAveraging(avg_fn=lambda old, new, count: old + (new - old) / (count + 1)),
        "ema": lambda: EMAWeightAveraging(decay=0.9),
    }
    callback = callbacks.lightning("gradual", amount=0.6, every=1, end=1.0)
    module = lightning_fit([made[kind]()], callback, Flat(5), last=last)
    assert cut_is_zero(module, callback.masks)


def test_cut_weights_do_not_count_in_the_norm_that_lightning_clips() -> None:
    noted: list[float] = []
    callback = callbacks.lightning("gradual", amount=0.6, every=1, end=0.1)
    lightning_fit([], callback, Flat(5), noted, gradient_clip_val=1e-3)
    assert noted == pytest.approx([1e-3] * len(noted), rel=1e-2)  # of what is left: it was above
    assert len(noted) == 20


def test_a_penalty_is_added_once_with_several_optimisers() -> None:
    """Only in the steps of the optimiser that the method is attached to."""
    pytest.importorskip("lightning")
    callback = callbacks.lightning("gradual", amount=0.6)
    calls: list[Any] = []
    first, second = object(), object()

    class Trainer:
        optimizers = (first, second)

    pruning = callback.on_before_optimizer_step.__closure__[0].cell_contents
    pruning.add_penalty = lambda: calls.append("penalty")
    for optimizer in (first, second):
        callback.on_before_optimizer_step(Trainer(), None, optimizer)
    assert calls == ["penalty"]


def test_streams_and_trainings_without_end_need_the_number_of_steps() -> None:
    callback = callbacks.lightning("gradual", amount=0.6, steps=12, every=1)
    assert cut_is_zero(lightning_fit([], callback, Stream(), max_epochs=2), callback.masks)
    callback = callbacks.lightning("gradual", amount=0.6, steps=8, every=1)
    module = lightning_fit([], callback, Flat(5), max_epochs=-1, max_steps=12)
    assert cut_is_zero(module, callback.masks)
    callback = callbacks.lightning("gradual", amount=0.6, every=1)
    assert cut_is_zero(lightning_fit([], callback, Stream(), max_epochs=-1, max_steps=9), callback.masks)
    for how in ({"max_epochs": 2}, {"max_epochs": -1, "max_time": {"seconds": 1}}):
        data = Stream() if how["max_epochs"] == 2 else Flat(5)
        with pytest.raises(InputError, match=r"no known number of optimiser steps.*pass steps="):
            lightning_fit([], callbacks.lightning("gradual", amount=0.6), data, **how)


@pytest.mark.parametrize("name", ["gradual", "rigl"])
def test_the_trainer_of_transformers_clips_and_averages(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model, noted = Wrapped(), list[float]()

    class Averages(transformers.TrainerCallback):  # type: ignore[name-defined, misc]
        """Puts the average of all weights there at the end, and notes norms before each step."""

        def on_train_begin(self, *_: Any, **given: Any) -> None:
            self.sums = [each.detach().clone() for each in given["model"].parameters()]

        def on_pre_optimizer_step(self, *_: Any, **given: Any) -> None:
            noted.append(norm_of(given["model"]))

        def on_train_end(self, *_: Any, **given: Any) -> None:
            with torch.no_grad():
                for each, total in zip(given["model"].parameters(), self.sums, strict=True):
                    each.copy_(total)

    options = {"every": 2} if name == "rigl" else {"every": 1, "end": 0.1}
    callback = callbacks.hugging_face(name, amount=0.6, steps=12, **options)
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, gradient_accumulation_steps=2, num_train_epochs=1,
        max_grad_norm=1e-3, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=Flat(12), optimizers=(optimizer_of(model), None),
        callbacks=[callback, Averages()],
    )  # fmt: skip
    trainer.train()
    assert len(noted) == 12
    assert noted == pytest.approx([1e-3] * 12, rel=1e-2)
    assert cut_is_zero(model, callback.masks)


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
