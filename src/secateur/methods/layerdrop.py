"""LayerDrop: residual blocks are left out at random in training, so that the model bears to lose some afterwards."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.core.errors import ModelError
from secateur.graph.trace import trace
from secateur.methods.base import Clock, Method, MethodJob
from secateur.methods.draws import uniform
from secateur.methods.registry import method
from secateur.pruning.allocate_weights import check_amount
from secateur.pruning.layers import ResidualBlock, blocks_of
from secateur.shrink.skip import SkipForward


class DropForward(SkipForward):
    """Hands its input on with probability `rate`, in training, anew at every step."""

    def __init__(self, module: nn.Module, block: ResidualBlock, rate: float, clock: Clock, seed: int) -> None:
        super().__init__(module, block.items)
        self.path, self.rate, self.clock, self.seed = block.path, rate, clock, seed

    @property
    def drops(self) -> bool:
        """Whether the block is left out at this step."""
        drawn = uniform((), "cpu", "layerdrop", self.seed, self.clock.step, self.path)
        return bool(drawn < self.rate)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Hand on the input, or do what the block does."""
        if self.module.training and self.drops:
            return super().__call__(*args, **kwargs)
        return self.original(*args, **kwargs)


@method("layerdrop", paper="Fan et al. 2020")
class LayerDrop(Method):
    """Leave out each residual block with probability `rate` in training; prune layers afterwards.

    The blocks are found in the model's trace, like those of the granularity `layer`. A block that is left out has no
    gradients at that step: several processes need DistributedDataParallel(..., find_unused_parameters=True).
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
        """Have the blocks draw whether they run."""
        super().attach()
        self._forwards = [
            DropForward(self.job.model.get_submodule(block.path), block, self.rate, self.clock, self.job.seed)
            for block in self.blocks
        ]

    def release(self) -> None:
        """Have them always run."""
        for forward in self._forwards:
            forward.remove()
