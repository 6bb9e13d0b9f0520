"""The state of an unfinished training, as one tree for checkpoints."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from secateur.core.errors import StoreError
from secateur.methods import Method
from secateur.training.evaluation import Tally
from secateur.training.journal import Journal


class TrainingState:
    """State of a training: the number of batches done `iteration`, the epoch's `tally`, model, optimiser and log.

    `average` is the moving average of the weights, or None; `precision` is Fabric's plugin, which may scale the
    loss; `method` is the pruning method at work, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: AveragedModel | None,
        precision: Any,
        journal: Journal,
        method: Method | None = None,
    ) -> None:
        """Start at iteration 0."""
        self.iteration = 0
        self.tally = Tally()
        self.journal = journal
        self._parts = {"model": model, "optimizer": optimizer, "precision": precision}
        if method is not None:
            self._parts["method"] = method
        if average is not None:
            self._parts["average"] = average
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds spent so far, those before an interruption included."""
        return time.perf_counter() - self._began

    def tree(self) -> dict[str, Any]:
        """Return the state as nested dicts of tensors and JSON values."""
        return {
            "iteration": self.iteration,
            "tally": self.tally.sums(),
            "seconds": self.seconds,
            "journal": self.journal.tree(),
            **{name: part.state_dict() for name, part in self._parts.items()},
        }

    def restore(self, tree: dict[str, Any]) -> None:
        """Restore the state in `tree`. Raises `StoreError` for that of another model."""
        try:
            for name, part in self._parts.items():
                part.load_state_dict(tree[name])
            _match_layouts(self._parts["optimizer"])
            self.iteration, self.tally = tree["iteration"], Tally(**tree["tally"])
            self.journal.restore(tree["journal"])
            self._began = time.perf_counter() - tree["seconds"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise StoreError(
                f"The checkpoint does not fit {type(self._parts['model']).__name__} ({reason}): "
                "delete it, or start over with --overwrite."
            ) from error


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser's tensors the memory layout of their parameters, for bit-identical steps."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
