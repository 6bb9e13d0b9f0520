"""Growing regularisation: units chosen at the start are driven to zero by a weight decay that grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.core.errors import InputError
from secateur.methods.base import Method, MethodJob
from secateur.methods.group_lasso import lowest_cut
from secateur.methods.registry import method
from secateur.methods.schedule import check_every, check_span
from secateur.methods.units import Units
from secateur.pruning.allocate_units import SPREADS
from secateur.sparsity.masks import Masks


@method("growing", paper="Wang et al. 2021, GReg-1")
class Growing(Method):
    """Choose the units of the lowest norm and add λ_t θ to their gradients, λ_t growing to `limit`; then cut them.

    λ_t rises linearly, every `every` steps, until the fraction `end` of the training, and is constant afterwards.
    Units are chosen once, at the start, spread by `scope` (local, global or isomorphic). The amount is a fraction of
    the units; the masks, and `cut` in a log, count their weights.
    """

    counts = "units"

    def __init__(
        self, job: MethodJob, *, limit: float = 1.0, every: int = 10, end: float = 0.75, scope: str = "local"
    ) -> None:
        super().__init__(job)
        SPREADS[scope]
        check_every(every)
        check_span(0, end)
        if not limit >= 0:
            raise InputError(f"The limit {limit!r} is no weight decay: give a number from 0, such as 1.0.")
        self.limit, self.every, self.end = limit, every, end
        self.units = Units(job)
        self._choose(self.units.masks(lowest_cut(self.units, job.amount, scope)))

    @property
    def decay(self) -> float:
        """λ_t."""
        step = self.clock.step // self.every * self.every
        last = self.end * self.job.steps
        return self.limit * min(1.0, step / last) if last else self.limit

    def before_step(self) -> None:
        """Add λ_t θ to the gradients of the chosen units."""
        for parameter, going in self._going:
            self.push(parameter, self.decay * parameter * going)

    def cut(self) -> Masks:
        """Cut the units chosen at the start."""
        return self._chosen

    def state(self) -> dict[str, Any]:
        """Return the masks of the chosen units, one bit per weight."""
        return {"chosen": self._chosen.pack()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the choice of units."""
        self._choose(
            Masks.unpack(state["chosen"], {name: tuple(mask.shape) for name, mask in self._chosen.items()})
        )

    def _choose(self, masks: Masks) -> None:
        self._chosen = masks
        self._going = [(parameter, ~mask) for parameter, mask in masks.of(self.job.model)]
