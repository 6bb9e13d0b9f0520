"""The base class of methods that prune during training: a job, a clock, and the optimiser's hooks.

A method works through the optimiser's own hooks, so it works in any loop. `before_step` runs after the backward pass,
`after_step` after the update. Random numbers depend on (seed, step, name), not on a stream: so a method's state is a
step count and, at most, its masks, a resumed training equals an uninterrupted one, and all processes draw the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.modules import parameters_of
from secateur.measure.inputs import ModelInputs
from secateur.sparsity.masks import Masks, before_step
from secateur.sparsity.targets import matches, prunable


@dataclass(frozen=True)
class MethodJob:
    """The arguments of `secateur.methods.start` as a value; `requested` is its amount."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    requested: float | None
    include: tuple[str, ...]
    keep: tuple[str, ...]
    layers: tuple[str, ...]
    masks: Masks
    example_inputs: ModelInputs | None
    seed: int

    @property
    def amount(self) -> float:
        """The fraction to cut, for methods that require an amount."""
        assert self.requested is not None
        return self.requested

    def targets(self) -> dict[str, nn.Parameter]:
        """Return name → parameter of all prunable parameters, as `include`, `keep` and `layers` select them."""
        return prunable(self.model, self.include, self.keep, self.layers)

    def meant(self, *names: str) -> bool:
        """Whether `keep` and `layers` select a part with these `names`: none kept and, given layers, one of them."""
        kept, chosen = (
            any(matches(name, pattern) for name in names for pattern in patterns)
            for patterns in (self.keep, self.layers)
        )
        return not kept and (chosen or not self.layers)

    def inputs(self) -> ModelInputs:
        """Return the example inputs. Raises `InputError` if none were given."""
        if self.example_inputs is None:
            raise InputError(
                f"The method {self.name} needs example inputs to see how the model is built: "
                "pass example_inputs=…, what its forward takes."
            )
        return self.example_inputs


class Clock:
    """The number of optimiser steps taken, shared by a method and its gates."""

    def __init__(self) -> None:
        self.step = 0


class Method:
    """A pruning method at work, from `secateur.methods.start` to `finish()` or the end of a `with`.

    The end of a `with` block calls `finish()`, or `remove()` after an exception.
    """

    amount: ClassVar[Literal["required", "optional", "none"]] = "required"
    """Whether `start` requires, allows or refuses an amount."""
    counts: ClassVar[Literal["weights", "units"]] = "weights"
    """The unit of the amount: a fraction of the weights, or of the units."""
    learns: ClassVar[bool] = False
    """Whether it adds parameters to the model and the optimiser."""
    reshapes: ClassVar[bool] = False
    """Whether it computes weights from other parameters while at work; a copy of the model does not follow these."""

    def __init__(self, job: MethodJob) -> None:
        self.job = job
        self.clock = Clock()
        self._hooks: list[Any] = []

    @property
    def at_work(self) -> bool:
        """Whether the method is attached to the optimiser."""
        return bool(self._hooks)

    @property
    def masks(self) -> Masks:
        """The current cuts."""
        return Masks({})

    def penalty(self) -> Tensor:
        """Return the method's term of the loss: a scalar on the model's device, 0 by default."""
        return torch.zeros((), device=next(parameters_of(self.job.model)).device)

    def zero_gradients(self) -> None:
        """Zero the gradients of cut weights; call it before clipping the gradients' norm, as for `Held`."""
        self._earlier.zero_gradients()

    def before_step(self) -> None:
        """Hook before the optimiser's step, with unscaled gradients."""

    def after_step(self) -> None:
        """Hook after the optimiser's step; `clock.step` includes this step."""

    def cut(self) -> Masks:
        """Make the final cut of the model, which has its ordinary parameters again; return its masks."""
        return self.masks

    def release(self) -> None:
        """Restore the model's ordinary parameters."""

    def state(self) -> dict[str, Any]:
        """Return the state beside the clock, the model and the optimiser: tensors and JSON values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state; clock, model and optimiser are restored before."""

    def push(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        """Add `gradient` to the gradient of `parameter`, if it has one; for `before_step`."""
        if parameter.grad is not None:
            scale = getattr(self.job.optimizer, "grad_scale", None)  # a fused optimiser divides by it itself
            parameter.grad.add_(gradient if scale is None else gradient * scale)

    def attach(self) -> None:
        """Register the optimiser's hooks, and hold earlier cuts."""
        optimizer = self.job.optimizer
        self._hooks = [
            before_step(optimizer, self._before),
            optimizer.register_step_post_hook(lambda *_: self._after()),
        ]
        self._earlier = self.job.masks.hold(self.job.model, optimizer)

    def remove(self) -> None:
        """Detach without a final cut; the model has its ordinary parameters again, at their current values."""
        if self._hooks:
            for hook in self._hooks:
                hook.remove()
            self._hooks = []
            self._earlier.remove()
            self.release()

    def finish(self) -> Masks:
        """Detach, make the final cut, and return the masks, earlier ones included; cut weights are exactly 0.

        Raises `InputError` if the method has ended already.
        """
        if not self._hooks:
            raise InputError(f"The method {self.job.name} has ended already: start it again.")
        with torch.no_grad():
            self.remove()
            masks = self.cut() & self.job.masks
            masks.apply_(self.job.model)
        return masks

    def state_dict(self) -> dict[str, Any]:
        """Return the method's state, to be stored with the model's and the optimiser's."""
        return {"method": self.job.name, "step": self.clock.step, **self.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, after the model's and the optimiser's. Raises `InputError` for another method's."""
        if state["method"] != self.job.name:
            raise InputError(f"The state is of the method {state['method']}, not {self.job.name}.")
        self.clock.step = int(state["step"])
        self.restore(state)

    def __enter__(self) -> Method:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._hooks:
            self.finish()
        else:
            self.remove()

    @torch.no_grad()
    def _before(self) -> None:
        self.zero_gradients()
        self.before_step()

    @torch.no_grad()
    def _after(self) -> None:
        self.clock.step += 1
        self.after_step()
