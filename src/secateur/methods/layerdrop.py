"""LayerDrop: residual blocks are skipped at random in training, so that some can be removed afterwards."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.core.errors import ModelError
from secateur.core.modules import submodule
from secateur.graph.trace import trace
from secateur.methods.base import Clock, Method, MethodJob
from secateur.methods.draws import uniform
from secateur.methods.registry import method
from secateur.pruning.allocate_weights import check_amount
from secateur.pruning.blocks import ResidualBlock, blocks_of
from secateur.shrink.skip import SkipForward


class DropForward(SkipForward):
    """Forward of a residual block that is skipped with probability `rate` in training, drawn anew at every step."""

    def __init__(self, module: nn.Module, block: ResidualBlock, rate: float, clock: Clock, seed: int) -> None:
        super().__init__(module, block.items, block.factor)
        self.path, self.rate, self.clock, self.seed = block.path, rate, clock, seed

    @property
    def drops(self) -> bool:
        """Whether the block is skipped at this step."""
        drawn = uniform((), "cpu", "layerdrop", self.seed, self.clock.step, self.path)
        return bool(drawn < self.rate)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the input, or the block's output."""
        if self.module.training and self.drops:
            return super().__call__(*args, **kwargs)
        return self.original(*args, **kwargs)


@method("layerdrop", paper="Fan et al. 2020")
class LayerDrop(Method):
    """Skip each residual block with probability `rate` in training; prune layers afterwards.

    The blocks are found in the model's trace, like those of the granularity `layer`. A skipped block has no gradients
    at that step: several processes need DistributedDataParallel(..., find_unused_parameters=True).
    """

    amount = "none"

    def __init__(self, job: MethodJob, *, rate: float = 0.2) -> None:
        super().__init__(job)
        self.rate = check_amount(rate)
        self.blocks = [
            block for block in blocks_of(job.model, trace(job.model, job.inputs())) if job.meant(block.path)
        ]
        if not self.blocks:
            raise ModelError(
                f"{type(job.model).__name__} has no residual block that could be left out: take another method."
            )

    def attach(self) -> None:
        """Register the hooks, and make the blocks skip at random."""
        super().attach()
        self._forwards = [
            DropForward(submodule(self.job.model, block.path), block, self.rate, self.clock, self.job.seed)
            for block in self.blocks
        ]

    def release(self) -> None:
        """Restore the blocks' forwards."""
        for forward in self._forwards:
            forward.remove()
