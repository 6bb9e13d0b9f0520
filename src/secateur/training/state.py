"""Everything that changes while a model trains, as one tree that can be stored and put back."""

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
    """Where a training stands: `iteration` batches done, the `tally` of the epoch, model, optimiser and log.

    `average` is the moving average of the weights, where one is kept; `precision` is Fabric's, which may scale
    the loss; `method` prunes meanwhile, where one does.
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
        """Stand at the beginning."""
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
        """Seconds spent so far, before an interruption and since."""
        return time.perf_counter() - self._began

    def tree(self) -> dict[str, Any]:
        """Return the state as nested dicts of tensors and plain values."""
        return {
            "iteration": self.iteration,
            "tally": self.tally.sums(),
            "seconds": self.seconds,
            "journal": self.journal.tree(),
            **{name: part.state_dict() for name, part in self._parts.items()},
        }

    def restore(self, tree: dict[str, Any]) -> None:
        """Go back to the state that `tree` describes. Raises `StoreError` for that of another model."""
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
    """Lay the optimiser's tensors out in memory like their parameters, so that it computes the very same bits."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
