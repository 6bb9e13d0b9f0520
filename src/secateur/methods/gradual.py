"""Gradual magnitude pruning: the smallest weights are cut, a few at a time, during training."""

from __future__ import annotations

from secateur.core.computed import by_carrier
from secateur.methods.base import MethodJob
from secateur.methods.masking import Masking
from secateur.methods.registry import method
from secateur.methods.schedule import already_cut, check_every, check_span, cubic
from secateur.pruning.allocate_weights import allocate, check_amount
from secateur.sparsity.masks import Masks


@method("gradual", paper="Zhu & Gupta 2018")
class Gradual(Masking):
    """Cut the smallest |θ| every few steps, the amount growing by a cubic schedule.

    Each `every` steps the amount is raised to s_t (see `schedule.cubic`), which grows from `initial` to the whole
    amount between the fractions `begin` and `end` of the training; cut weights stay cut. The steps after `end` are
    for recovery. `scope` spreads the amount as in `secateur.prune`.
    """

    def __init__(
        self,
        job: MethodJob,
        *,
        scope: str = "global",
        begin: float = 0.0,
        end: float = 0.75,
        initial: float = 0.0,
        every: int = 10,
    ) -> None:
        super().__init__(job)
        check_span(begin, end)
        check_every(every)
        self.scope, self.begin, self.end, self.every = scope, begin, end, every
        self.initial = max(check_amount(initial), already_cut(self.masks, scope))
        self._cut_to(job.amount)  # refuse an impossible amount at the start

    def after_step(self) -> None:
        """Cut at multiples of `every`."""
        if self.clock.step % self.every == 0:
            self.change(self._cut_to(self._amount()))

    def cut(self) -> Masks:
        """Cut to the whole amount, even if the schedule has not reached it."""
        return self._cut_to(self.job.amount)

    def _amount(self) -> float:
        return cubic(
            self.clock.step,
            self.job.steps,
            self.job.amount,
            initial=min(self.initial, self.job.amount),
            begin=self.begin,
            end=self.end,
        )

    def _cut_to(self, amount: float) -> Masks:
        computed = by_carrier(self.job.model)
        magnitudes = {
            name: (computed[name].value() if name in computed else parameter.detach()).abs()
            for name, parameter in self.targets.items()
        }
        return allocate(magnitudes, amount, self.scope, already=self.masks)
