"""What every method that prunes while training has in common: a job, a clock, and the optimiser's hooks.

A method hangs on the optimiser's own hooks, so it works in any loop. `before_step` runs when the gradients are
there, `after_step` when the weights have moved. What is drawn at random comes from (seed, step, name), never from a
stream: so a method's state is a number and, at most, its masks, a continued training is the undisturbed one, and all
processes draw the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.measure.inputs import ModelInputs
from secateur.sparsity.masks import Masks, before_step
from secateur.sparsity.targets import matches, prunable


@dataclass(frozen=True)
class MethodJob:
    """What a method is asked to do: the arguments of `secateur.methods.start`."""

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
        """The fraction to cut, for methods that require one."""
        assert self.requested is not None
        return self.requested

    def targets(self) -> dict[str, nn.Parameter]:
        """Return name → parameter of all that may be cut."""
        return prunable(self.model, self.include, self.keep, self.layers)

    def meant(self, *names: str) -> bool:
        """Whether what goes by one of these names is to be touched, as `keep` and `layers` say."""
        kept, chosen = (
            any(matches(name, pattern) for name in names for pattern in patterns)
            for patterns in (self.keep, self.layers)
        )
        return not kept and (chosen or not self.layers)

    def inputs(self) -> ModelInputs:
        """Return the example inputs. Raises `InputError` where none were given."""
        if self.example_inputs is None:
            raise InputError(
                f"The method {self.name} needs example inputs to see how the model is built: "
                "pass example_inputs=…, what its forward takes."
            )
        return self.example_inputs


class Clock:
    """How many optimiser steps have been taken; shared by all that changes with time."""

    def __init__(self) -> None:
        self.step = 0


class Method:
    """A pruning method at work, from `secateur.methods.start` to `finish()` or the end of a `with`.

    In a `with`, the block's end is `finish()`; an exception only lets go.
    """

    amount: ClassVar[Literal["required", "optional", "none"]] = "required"
    """Whether the method must, may or can't be told how much to cut."""
    counts: ClassVar[Literal["weights", "units"]] = "weights"
    """What the amount is a fraction of."""
    learns: ClassVar[bool] = False
    """Whether it adds parameters to the model and the optimiser."""
    reshapes: ClassVar[bool] = False
    """Whether weights are computed from other parameters meanwhile, which a copy of the model would not follow."""

    def __init__(self, job: MethodJob) -> None:
        self.job = job
        self.clock = Clock()
        self._hooks: list[Any] = []

    @property
    def at_work(self) -> bool:
        """Whether the method still follows the optimiser."""
        return bool(self._hooks)

    @property
    def masks(self) -> Masks:
        """What is cut at the moment."""
        return Masks({})

    def penalty(self) -> Tensor:
        """Return what the method adds to the loss: a scalar, 0 for most."""
        return torch.zeros((), device=next(self.job.model.parameters()).device)

    def zero_gradients(self) -> None:
        """Zero the gradients of cut weights; call it before clipping a gradient's norm, as with `Held`."""
        self._earlier.zero_gradients()

    def before_step(self) -> None:
        """Act when the gradients are there, unscaled."""

    def after_step(self) -> None:
        """Act when the weights have moved; `clock.step` counts this step already."""

    def cut(self) -> Masks:
        """Make the final cut of the model, which has its ordinary parameters again; return its masks."""
        return self.masks

    def release(self) -> None:
        """Give the model its ordinary parameters back."""

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs beside the clock, the model and the optimiser: tensors and plain values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state; the model and the optimiser are back already."""

    def push(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        """Add to a parameter's gradient, where it has one; for `before_step`."""
        if parameter.grad is not None:
            scale = getattr(self.job.optimizer, "grad_scale", None)  # a fused optimiser divides by it itself
            parameter.grad.add_(gradient if scale is None else gradient * scale)

    def attach(self) -> None:
        """Hang on the optimiser's hooks, and hold earlier cuts."""
        optimizer = self.job.optimizer
        self._hooks = [
            before_step(optimizer, self._before),
            optimizer.register_step_post_hook(lambda *_: self._after()),
        ]
        self._earlier = self.job.masks.hold(self.job.model, optimizer)

    def remove(self) -> None:
        """Let go without a final cut: the model has its ordinary parameters again, as they are."""
        if self._hooks:
            for hook in self._hooks:
                hook.remove()
            self._hooks = []
            self._earlier.remove()
            self.release()

    def finish(self) -> Masks:
        """Cut what the method has chosen, let go, and return the masks; cut weights are exactly 0.

        Raises `InputError` where the method has been let go of already.
        """
        if not self._hooks:
            raise InputError(f"The method {self.job.name} has ended already: start it again.")
        with torch.no_grad():
            self.remove()
            masks = self.cut() & self.job.masks
            masks.apply_(self.job.model)
        return masks

    def state_dict(self) -> dict[str, Any]:
        """Return the method's state, for a checkpoint beside the model's and the optimiser's."""
        return {"method": self.job.name, "step": self.clock.step, **self.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state, once the model and the optimiser are. Raises `InputError` for another method's."""
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
