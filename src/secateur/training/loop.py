"""The training loop, resumable bit by bit.

Order, augmentation, dropout and learning rate are pure functions of (seed, iteration), so a checkpoint is the
model, the optimiser and a few sums. `batch_size` is the global batch: each of several processes computes its
share of the same batch, and their gradients add up to the same mean.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from secateur import methods
from secateur.core import contexts
from secateur.core.brief import Brief
from secateur.core.environment import usable_cores
from secateur.core.errors import InputError, ModelError
from secateur.core.extras import need
from secateur.core.modules import buffers_of, parameters_of
from secateur.core.options import options_from
from secateur.core.progress import bar
from secateur.core.seeds import same_draws, seed_global, seed_of
from secateur.data import Batches, Dataset
from secateur.data.dataset import each
from secateur.methods import Method
from secateur.sparsity.masks import Held, Masks
from secateur.training.checkpoint import Checkpoint
from secateur.training.config import TrainConfig
from secateur.training.duration import Duration
from secateur.training.evaluation import Tally, evaluate, logits_of, try_out
from secateur.training.journal import Journal, MetricsRow
from secateur.training.learning_rate import learning_rate
from secateur.training.optimizers import OPTIMIZERS
from secateur.training.snapshots import Snapshots
from secateur.training.state import TrainingState

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from secateur.data.batches import Batch


@dataclass(frozen=True, repr=False)
class Fit(Brief):
    """Result of a training: the log's `rows`, the `seconds` spent and `resumed_at`, the iteration it resumed from.

    `resumed_at` is 0 for an uninterrupted training; `masks` combine those given with the cuts of a method.
    """

    rows: list[MetricsRow]
    seconds: float
    resumed_at: int = 0
    masks: Masks = field(default_factory=lambda: Masks({}))


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

    `folder` holds the log, the snapshots and the checkpoints, one of which is continued from if its identity is
    `identity`; `context` starts every row of the log. The checkpoint of the finished training stays in the folder.

    Raises `InputError` for a start past the end or too small a batch, `ModelError` if model and data don't fit or
    the loss is no finite number, `StoreError` for a checkpoint of another identity.
    """
    model.to(fabric.device)
    batches = _batches(data, config, fabric)
    per_epoch, total = len(batches), len(batches) * config.epochs
    every, row_every = (
        max(1, Duration.parse(span).iterations(per_epoch, total))
        for span in (config.checkpoint_every, config.evaluate_every)
    )
    begin = Duration.parse(config.start_at).iterations(per_epoch, total)
    if begin and begin >= total:
        raise InputError(f"Training can't start at {config.start_at}: it ends after {total} iterations.")
    snapshots = Snapshots.at(folder if fabric.is_global_zero else None, config.snapshots, per_epoch, total)
    enough = min(config.batch_size, len(data.train), 2 * fabric.world_size)
    try_out(model, data)
    make = OPTIMIZERS[config.optimizer]
    optimizer = make(_trainable(model), **options_from(config, make))
    checkpoint = Checkpoint(folder, identity or {})
    title = str((context or {}).get("do", "train"))
    with (
        contexts.channels_last(model) if config.channels_last and data.input_shape else nullcontext(),
        contexts.training(model),
        Masks(masks or {}).hold(model, optimizer) as held,
        _method(model, optimizer, data, config, fabric.device, masks, per_epoch, enough) as method,
        same_draws(config.seed),
    ):
        average = _averaging(model, config.ema)
        result = model if average is None else average.module
        wrapped, stepper = fabric.setup(model, optimizer)
        journal = Journal(folder if fabric.is_global_zero else None, context, config.tensorboard)
        state = TrainingState(model, optimizer, average, fabric.strategy.precision, journal, method)
        state.iteration = begin
        saved = checkpoint.read()
        if saved is not None:
            state.restore(saved)
        elif fabric.is_global_zero:
            snapshots.take(begin, model)
            checkpoint.write(state.tree())
        resumed_at = state.iteration

        def note(trained: nn.Module, cut: Masks) -> None:
            """Evaluate, write a row and reset the tally."""
            epoch, rate = state.iteration // per_epoch, learning_rate(state.iteration - 1, per_epoch, config)
            measured = _measured(state.tally, trained, data, fabric)
            if method is not None:
                measured["cut"] = cut.sparsity
            if not all(map(math.isfinite, measured.values())):
                checkpoint.remove()
                raise ModelError(
                    f"The loss became infinite or NaN in epoch {epoch}: try a lower learning rate."
                )
            journal.write(epoch=epoch, iteration=state.iteration, lr=rate, **measured)
            running.say(f"top-1 {measured['top1']:.2%}  loss {measured['train_loss']:.3f}")
            state.tally = Tally()

        def noted() -> bool:
            """Whether the last row is of this iteration."""
            return bool(journal.rows) and journal.rows[-1]["iteration"] == state.iteration

        with bar(title, total, resumed_at, shown=fabric.is_global_zero) as running:
            if begin < resumed_at < total and resumed_at % row_every == 0 and not noted():
                note(result, Masks({}) if method is None else method.masks)  # deferred as the last row then
            for batch in _remaining(batches, resumed_at, total):
                rate = learning_rate(state.iteration, per_epoch, config)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group.get("lr_factor", 1.0)
                seed_global(seed_of("step", config.seed, state.iteration, fabric.global_rank))
                if batch.size >= enough:  # a last batch too small for a normalisation is left out
                    logits, losses = _learn(batch, wrapped, stepper, held, method, data, config, fabric)
                    if average is not None:
                        average.update_parameters(model)
                    state.tally.add(logits, batch.labels, losses)
                state.iteration += 1
                running.advance()
                if state.iteration % row_every == 0 or state.iteration == total:
                    state.tally = state.tally.reduced(fabric)
                    if state.iteration < total:
                        note(result, Masks({}) if method is None else method.masks)
                if fabric.is_global_zero:  # before the checkpoint: a resumed training can't take it
                    snapshots.take(state.iteration, model)
                if fabric.is_global_zero and (state.iteration % every == 0 or state.iteration == total):
                    checkpoint.write(state.tree())
            if average is not None:
                model.load_state_dict(result.state_dict())
            final = Masks(masks or {})
            if method is not None:
                final = method.finish() & final
            if total and not noted():
                note(model, final)  # the last row measures the final model
    model.zero_grad()
    return Fit(journal.rows, state.seconds, resumed_at if resumed_at > begin else 0, final)


def _method(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    config: TrainConfig,
    device: torch.device,
    masks: Mapping[str, Tensor] | None,
    per_epoch: int,
    enough: int,
) -> AbstractContextManager[Method | None]:
    """Start the config's method, if it names one."""
    if config.method is None:
        return nullcontext()
    left_over = len(data.train) % config.batch_size
    return methods.start(
        config.method,
        model,
        optimizer,
        steps=config.epochs * (per_epoch - (0 < left_over < enough)),
        amount=config.amount,
        masks=masks,
        example_inputs=each(lambda tensor: tensor.to(device), data.example(2)),
        seed=config.seed,
        **config.options,
    )


def _batches(data: Dataset, config: TrainConfig, fabric: Fabric) -> Batches:
    """Return this process's share of the training batches. Raises `InputError` for fewer samples than processes."""
    if min(config.batch_size, len(data.train)) < fabric.world_size:
        raise InputError(
            f"Batches of {min(config.batch_size, len(data.train))} can't be shared out over {fabric.world_size} "
            "devices: choose a larger batch_size or fewer devices."
        )
    return Batches(
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


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    parameters = [parameter for parameter in parameters_of(model) if parameter.requires_grad]
    if not parameters:
        raise ModelError(
            f"{type(model).__name__} has no trainable parameter: unfreeze some with requires_grad_(True)."
        )
    return parameters


def _remaining(batches: Batches, start: int, total: int) -> Iterator[Batch]:
    """Yield batches `start` to `total` − 1, counted over all epochs."""
    while start < total:
        epoch, number = divmod(start, len(batches))
        yield from batches.epoch(epoch, number)
        start = (epoch + 1) * len(batches)


def _averaging(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return an exponential moving average of `model`, running statistics included; None without a decay."""
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]


def _learn(
    batch: Batch,
    model: nn.Module,
    optimizer: Any,
    held: Held,
    method: Method | None,
    data: Dataset,
    config: TrainConfig,
    fabric: Fabric,
) -> tuple[Tensor, Tensor]:
    """Take one optimiser step; return this process's logits [N, classes] and the sum of its losses."""
    logits = logits_of(model, batch.inputs, data)
    losses = functional.cross_entropy(
        logits.float(), batch.labels, reduction="sum", label_smoothing=config.label_smoothing
    )
    optimizer.zero_grad()
    loss = losses * fabric.world_size / batch.size  # processes' gradients are averaged
    fabric.backward(loss if method is None else loss + method.penalty())
    if config.clip_norm is not None:
        if method is not None:
            method.zero_gradients()
        held.zero_gradients()
        fabric.clip_gradients(model, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
    optimizer.step()
    return logits, losses


def _measured(tally: Tally, model: nn.Module, data: Dataset, fabric: Fabric) -> dict[str, float]:
    """Return the epoch's means over its training batches, and those of `model` on the test split."""
    for buffer in buffers_of(model) if fabric.world_size > 1 else ():
        torch.distributed.broadcast(buffer, src=0)  # evaluate the first process's statistics
    train = tally.means()
    test = evaluate(model, data, fabric=fabric, progress=False)
    return {"train_loss": train["loss"], "train_top1": train["top1"], **test}


def make_fabric(config: TrainConfig, strategy: Any = "auto") -> Fabric:
    """Return the Fabric of a config. Raises `InputError` for devices, an accelerator or a precision it refuses."""
    need("lightning_fabric", for_="Training")
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # standard error is for bars and errors
    try:
        precision: Any = config.precision
        fabric = Fabric(
            accelerator=config.accelerator, devices=config.devices, strategy=strategy, precision=precision
        )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"Cannot train on {config.devices} × {config.accelerator} in {config.precision}: {reason}"
        ) from error
    if fabric.device.type == "cpu" and config.devices > max(LEAST_PROCESSES, usable_cores()):
        raise InputError(
            f"Cannot train in {config.devices} processes on {usable_cores()} cores: give --devices a number up to "
            f"{max(LEAST_PROCESSES, usable_cores())}."
        )
    return fabric


LEAST_PROCESSES = 2
"""Number of processes on the CPU that every machine may try."""
