"""The training loop: small enough to read, exact enough to resume.

Order, augmentation, dropout and learning rate are pure functions of (seed, iteration), so a checkpoint is the
model, the optimiser and a few sums. `batch_size` is the global batch: with several processes each computes its
share of the very same batch and the gradients add up to the same mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from secateur import modes
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
from secateur.training.state import State

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from secateur.data.batches import Batch


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
    such a checkpoint must have been made with; `context` starts every row of the log. The checkpoint of the
    finished training is left in the folder.
    """
    model.to(fabric.device)
    batches = _batches(data, config, fabric)
    per_epoch, total = len(batches), len(batches) * config.epochs
    every = max(1, Duration.parse(config.checkpoint_every).iterations(per_epoch, total))
    fewest = min(config.batch_size, len(data.train), 2 * fabric.world_size)
    optimizer = OPTIMIZERS[config.optimizer](_trainable(model), config)
    checkpoint = Checkpoint(folder, identity or {})
    title = str((context or {}).get("do", "train"))
    image_model = config.channels_last and data.input_shape is not None
    with (
        modes.channels_last(model) if image_model else nullcontext(),
        modes.training(model),
        Masks(masks or {}).hold(model, optimizer) as held,
        torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []),
    ):
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True) if config.ema else None
        result: nn.Module = model if average is None else average.module
        wrapped, stepper = fabric.setup(model, optimizer)
        journal = Journal(folder if fabric.is_global_zero else None, context, config.tensorboard)
        state = State(model, optimizer, average, fabric.strategy.precision, journal)
        saved = checkpoint.read()
        if saved is not None:
            state.restore(saved)
        elif fabric.is_global_zero:
            checkpoint.write(state.tree())
        resumed_at = state.iteration
        with bar(title, total, resumed_at, shown=fabric.is_global_zero) as running:
            for batch in _remaining(batches, resumed_at, total):
                rate = learning_rate(state.iteration, per_epoch, config)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                torch.manual_seed(seed_of("step", config.seed, state.iteration, fabric.global_rank))
                if batch.size >= fewest:  # a last batch too small for a normalisation to see is left out
                    logits = logits_of(wrapped, batch.inputs, data)
                    losses = functional.cross_entropy(
                        logits.float(), batch.labels, reduction="sum", label_smoothing=config.label_smoothing
                    )
                    stepper.zero_grad()
                    fabric.backward(losses * fabric.world_size / batch.size)
                    if config.clip_norm is not None:
                        held.zero_gradients()
                        fabric.clip_gradients(wrapped, stepper, max_norm=config.clip_norm, error_if_nonfinite=False)
                    stepper.step()
                    if average is not None:
                        average.update_parameters(model)
                    state.tally.add(logits, batch.labels, losses)
                state.iteration += 1
                running.advance()
                if state.iteration % per_epoch == 0:
                    means = _means(state, result, data, fabric)
                    if means is None:
                        checkpoint.remove()
                        raise ModelError(
                            f"The loss became infinite in epoch {state.iteration // per_epoch}: try a lower learning rate."
                        )
                    row = journal.write(epoch=state.iteration // per_epoch, iteration=state.iteration, lr=rate, **means)
                    running.say(f"top-1 {row['top1']:.2%}  loss {row['train_loss']:.3f}")
                if fabric.is_global_zero and (state.iteration % every == 0 or state.iteration == total):
                    checkpoint.write(state.tree())
    model.load_state_dict(result.state_dict())
    model.zero_grad()
    return Fit(journal.rows, state.seconds, resumed_at)
