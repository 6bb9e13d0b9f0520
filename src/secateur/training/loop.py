"""The training loop: small enough to read, exact enough to resume.

Order, augmentation, dropout and learning rate are pure functions of (seed, iteration), so a checkpoint is the
model, the optimiser and one number. `batch_size` is the global batch: with several processes each computes its
share of the very same batch and the gradients add up to the same mean.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from secateur.data import Batches, Dataset
from secateur.errors import InputError, ModelError
from secateur.masks import Masks
from secateur.progress import bar
from secateur.seeds import seed_of
from secateur.training.checkpoint import Checkpoint
from secateur.training.config import TrainConfig
from secateur.training.duration import Duration
from secateur.training.evaluation import Tally, evaluate, logits_of
from secateur.training.journal import Journal, Row
from secateur.training.optimizers import OPTIMIZERS
from secateur.training.schedules import learning_rate

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Fit:
    """What training gives back: the log's `rows` (one an epoch), `seconds` spent, and where it was resumed."""

    rows: list[Row]
    seconds: float
    resumed_at: int = 0


def fit(
    model: nn.Module,
    data: Dataset,
    config: TrainConfig,
    fabric: Fabric,
    *,
    masks: Mapping[str, Tensor] | None = None,
    folder: str | os.PathLike[str] | None = None,
    context: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> Fit:
    """Train `model` in place by `config` in this process of `fabric`; see `secateur.train` for the public form.

    `folder` receives the log and the checkpoints, and is looked into for one to continue from; `identity` is what
    such a checkpoint must have been made with; `context` starts every row of the log.
    """
    batches = Batches(
        data,
        "train",
        config.batch_size,
        device=fabric.device,
        shuffle=True,
        seed=config.seed,
        augment=config.augment if config.augment is not None else data.augmentation,
        rank=fabric.global_rank,
        world=fabric.world_size,
        channels_last=config.channels_last,
    )
    per_epoch = len(batches)
    total = per_epoch * config.epochs
    layout = config.channels_last and data.input_shape is not None
    if layout:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.to(fabric.device)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ModelError(f"{type(model).__name__} has no trainable parameter: nothing to train.")
    optimizer = OPTIMIZERS[config.optimizer](trainable, config)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True) if config.ema else None
    held = Masks(masks or {}).hold(model, optimizer)
    wrapped, optimizer = fabric.setup(model, optimizer)
    journal = Journal(folder if fabric.is_global_zero else None, context, config.tensorboard)
    checkpoint = Checkpoint(folder, identity or {})
    tally, seconds, start = Tally(), 0.0, 0
    state = checkpoint.read()
    if state is not None:
        start, tally, seconds = state["iteration"], Tally(**state["tally"]), state["seconds"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        fabric.strategy.precision.load_state_dict(state["precision"])
        if average is not None:
            average.load_state_dict(state["average"])
        journal.rewind(state["journal"], state["rows"])
    every = max(1, Duration.parse(config.checkpoint_every).iterations(per_epoch, total))
    began = time.perf_counter()
    wrapped.train()
    shown = fabric.is_global_zero
    title = str((context or {}).get("do", "train"))
    with torch.random.fork_rng(devices=[]), bar(title, total, start, shown) as running:
        while start < total:
            for batch in batches.epoch(start // per_epoch, start % per_epoch):
                torch.manual_seed(seed_of("step", config.seed, start, fabric.global_rank))
                rate = learning_rate(start, per_epoch, config)
                _set_rate(optimizer, rate)
                start += 1
                if batch.size >= 2 * fabric.world_size:  # normalisation needs two samples in every process
                    logits = logits_of(wrapped, batch.inputs, data)
                    losses = functional.cross_entropy(
                        logits.float(), batch.labels, reduction="sum", label_smoothing=config.label_smoothing
                    )
                    optimizer.zero_grad()
                    fabric.backward(losses * fabric.world_size / batch.size)
                    if config.clip_norm is not None:
                        fabric.clip_gradients(wrapped, optimizer, max_norm=config.clip_norm)
                    optimizer.step()
                    if average is not None:
                        average.update_parameters(model)
                    tally.add(logits, batch.labels, losses)
                running.advance()
                if start % per_epoch == 0:
                    row = _end_of_epoch(start, per_epoch, rate, tally.reduced(fabric), average or model, data, fabric, journal)
                    tally = Tally()
                    wrapped.train()
                    running.say(f"top-1 {row['top1']:.2%}  loss {row['train_loss']:.3f}")
                if start % every == 0 and start < total and fabric.is_global_zero:
                    checkpoint.write(
                        iteration=start,
                        tally=vars(tally),
                        seconds=seconds + time.perf_counter() - began,
                        journal=journal.length,
                        rows=journal.rows,
                        model=model.state_dict(),
                        optimizer=optimizer.state_dict(),
                        precision=fabric.strategy.precision.state_dict(),
                        average=average.state_dict() if average is not None else None,
                    )
    held.remove()
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    if layout:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model.zero_grad(set_to_none=True)
    resumed = 0 if state is None else int(state["iteration"])
    return Fit(journal.rows, seconds + time.perf_counter() - began, resumed)


def _end_of_epoch(
    iteration: int,
    per_epoch: int,
    rate: float,
    train: Tally,
    model: nn.Module,
    data: Dataset,
    fabric: Fabric,
    journal: Journal,
) -> Row:
    """Evaluate and write the epoch's row. Raises `ModelError` where the training has diverged."""
    means = train.means()
    if not means["loss"] < float("inf"):
        raise ModelError(f"The loss became {means['loss']} in epoch {iteration // per_epoch}: try a lower learning rate.")
    test = evaluate(model, data, fabric=fabric, progress=False)
    return journal.write(
        epoch=iteration // per_epoch,
        iteration=iteration,
        lr=rate,
        train_loss=means["loss"],
        train_top1=means["top1"],
        **test,
    )


def _set_rate(optimizer: Any, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def make_fabric(config: TrainConfig, strategy: str = "auto") -> Fabric:
    """Return the Fabric for a config. Raises `InputError` for an accelerator that isn't there."""
    from lightning_fabric import Fabric

    try:
        precision: Any = config.precision
        return Fabric(accelerator=config.accelerator, devices=config.devices, strategy=strategy, precision=precision)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"Cannot train on {config.devices} × {config.accelerator} in {config.precision}: {reason}"
        ) from error
