"""Callbacks that run methods in the Trainers of Transformers and of Lightning.

    trainer = transformers.Trainer(..., callbacks=[hugging_face("gradual", amount=0.9)])
    trainer = lightning.Trainer(..., callbacks=[lightning("rigl", amount=0.9)])

Each starts the method with the training, adds its penalty to the gradients, stores its state with checkpoints, and
makes the final cut at the end of the training, which sets its `masks`. The libraries are imported on use.

Methods that learn scores add them to model and optimiser at the start of the training: too late for
DistributedDataParallel and for checkpoints that hold scores. These need `start` in the user's own loop.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, ModelError, StoreError
from secateur.core.extras import need
from secateur.core.modules import parameters_of
from secateur.methods.base import Method
from secateur.methods.registry import METHODS, start
from secateur.sparsity.masks import Masks
from secateur.storage.model_files import read_tree, write_tree

STATE = "secateur.safetensors"


class Pruning:
    """The method of a callback, started with the training; shared by both callbacks."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        METHODS[name]
        self.name, self.options = name, dict(options)
        self.steps: int | None = self.options.pop("steps", None)
        self.model: nn.Module | None = None
        self.method: Method | None = None
        self.masks = Masks({})

    def begin(
        self, model: nn.Module, optimizer: Any, schedulers: list[Any], steps: float, state: Any = None
    ) -> None:
        """Start the method for the steps it was given, or `steps` optimiser steps, or restore its `state`.

        Raises `InputError` for a training without end if it was given none, `ModelError` for a method that learns
        scores in several processes or with a state.
        """
        steps = self._steps(steps)
        self.model = model
        learns = METHODS[self.name].make.learns
        if learns and (state is not None or _processes() > 1):
            why = "go on from a checkpoint" if state is not None else "join several processes"
            raise ModelError(
                f"The scores of {self.name} can't {why} through a callback: start it in a loop of your own, "
                "before the model is wrapped, or take a method without scores."
            )
        while hasattr(optimizer, "optimizer"):  # of accelerate
            optimizer = optimizer.optimizer
        if self.method is not None:
            self.method.remove()  # of an interrupted training
        weights = (
            [parameter.detach().clone() for parameter in parameters_of(model)] if state is not None else []
        )
        self.method = start(self.name, model, optimizer, steps=steps, **self.options)
        for scheduler in schedulers if learns else ():
            _include(getattr(scheduler, "scheduler", scheduler), optimizer.param_groups[-1])
        if state is not None:
            with torch.no_grad():  # loaded already, and not to be cut by first masks
                for parameter, weight in zip(parameters_of(model), weights, strict=True):
                    parameter.copy_(weight)
            self.method.load_state_dict(state)

    def add_penalty(self) -> None:
        """Add the penalty's gradient to the unscaled gradients."""
        assert self.method is not None
        with torch.enable_grad():
            penalty = self.method.penalty()
            if penalty.requires_grad:
                penalty.backward()  # type: ignore[no-untyped-call]

    def _steps(self, steps: float) -> int:
        if self.steps is not None:
            return self.steps
        if not 0 <= steps < math.inf:
            raise InputError(
                f"The training has no known number of optimiser steps, over which {self.name} is spread: "
                "pass steps=, as in lightning(..., steps=1000), or give the trainer max_steps."
            )
        return int(steps)

    def zero_gradients(self) -> None:
        """Zero the gradients of cut weights, so that they do not count in a norm that is clipped."""
        if self.method is not None and self.method.at_work:
            with torch.no_grad():
                self.method.zero_gradients()

    def end(self) -> None:
        """Make the final cut."""
        assert self.method is not None
        self.masks = self.method.finish()

    def cut_again(self) -> None:
        """Set cut weights to zero once more, after other callbacks may have put averaged ones there."""
        if self.model is not None and self.method is not None and not self.method.at_work:
            self.masks.apply_(self.model)


def hugging_face(name: str, **options: Any) -> Any:
    """Return a callback for `transformers.Trainer`; `name` and `options` are those of `secateur.methods.start`.

    With fp16, `max_grad_norm` must stay above 0 (the default), so that gradients are unscaled before the penalty is
    added. Raises `MissingExtraError` without Transformers.
    """
    need("transformers", extra="transformers", for_="A callback for its Trainer")
    from transformers import TrainerCallback

    pruning = Pruning(name, options)

    class PruningCallback(TrainerCallback):
        """Prunes while the Trainer trains."""

        @property
        def masks(self) -> Masks:
            """The final cuts; none before the training ends."""
            return pruning.masks

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            _go_last(self, sys._getframe(1).f_locals.get("self"))
            held = None
            if state.global_step:
                path = _checkpoint(args, state)
                if not path.exists():
                    raise StoreError(f"There is no {path}: the checkpoint was made without this callback.")
                held = read_tree(path)
            schedulers = [given["lr_scheduler"]] if given.get("lr_scheduler") is not None else []
            pruning.begin(given["model"], given["optimizer"], schedulers, state.max_steps, held)
            self.after_backward = AfterBackward(given["model"], pruning.zero_gradients)

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            pruning.add_penalty()

        def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.is_world_process_zero and pruning.method is not None:
                write_tree(_checkpoint(args, state), pruning.method.state_dict())

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.after_backward.remove()
            pruning.end()

    return PruningCallback()


def lightning(name: str, **options: Any) -> Any:
    """Return a callback for `lightning.Trainer`; `name` and `options` are those of `secateur.methods.start`.

    It is attached to the first optimiser. Raises `MissingExtraError` without Lightning.
    """
    need("lightning.pytorch.callbacks", extra="lightning", for_="A callback for its Trainer")
    from lightning.pytorch.callbacks import Callback

    pruning = Pruning(name, options)

    class PruningCallback(Callback):
        """Prunes while the Trainer trains."""

        held: dict[str, Any] | None = None

        @property
        def masks(self) -> Masks:
            """The final cuts; none before the training ends."""
            return pruning.masks

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
            steps = trainer.estimated_stepping_batches if pruning.steps is None else pruning.steps
            pruning.begin(pl_module, trainer.optimizers[0], schedulers, steps, self.held)

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            if optimizer is trainer.optimizers[0]:
                pruning.add_penalty()
                pruning.zero_gradients()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            pruning.end()

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            pruning.cut_again()

        def state_dict(self) -> dict[str, Any]:
            return pruning.method.state_dict() if pruning.method is not None else {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.held = state_dict or None

    return PruningCallback()


class AfterBackward:
    """Calls `act` at the end of each backward pass that completes the gradients of a step, before they are clipped."""

    def __init__(self, model: nn.Module, act: Callable[[], None]) -> None:
        self.act, self.waiting = act, False
        trained: list[Any] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        hooks = [each.register_post_accumulate_grad_hook for each in trained]
        self.handles = [hooked(self._seen) for hooked in hooks]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()

    def _seen(self, parameter: Tensor) -> None:
        state: Any = importlib.import_module("accelerate.state")

        if not self.waiting and state.GradientState().sync_gradients:
            self.waiting = True
            self._queue(lambda: self._queue(self._ended))  # after those of DistributedDataParallel

    def _ended(self) -> None:
        self.waiting = False
        self.act()

    def _queue(self, call: Callable[[], None]) -> None:
        torch.autograd.Variable._execution_engine.queue_callback(call)


def _go_last(callback: Any, handler: Any) -> None:
    """Have a handler of callbacks call this one last: others may put averaged weights there at the end."""
    if callback in getattr(handler, "callbacks", ()):
        handler.callbacks = [each for each in handler.callbacks if each is not callback] + [callback]


def _processes() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE


def _include(scheduler: Any, group: dict[str, Any]) -> None:
    """Add the scores' parameter group to a scheduler made before it."""
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs.append(group["initial_lr"])
    if hasattr(scheduler, "lr_lambdas"):
        scheduler.lr_lambdas.append(scheduler.lr_lambdas[0])
