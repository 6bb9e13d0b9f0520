"""Dynamic sparse training: sparse from the first step to the last, with connections exchanged on the way.

The network starts with random masks at Erdős–Rényi-Kernel densities. At intervals each layer drops its smallest
weights and grows as many others: random ones (SET), or those of the largest dense gradient (RigL). The number of
weights per layer is constant.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.methods.base import MethodJob
from secateur.methods.draws import uniform
from secateur.methods.masking import Masking
from secateur.methods.registry import method
from secateur.methods.schedule import check_every, check_span
from secateur.pruning.allocate_weights import SCOPES, allocate, check_amount, keep_highest
from secateur.sparsity.masks import Masks


class Dynamic(Masking):
    """Drop by magnitude, grow by `grows`, every `every` steps until the fraction `end` of the training.

    `every` defaults to the smaller of 100 and a twentieth of the training.

    At step t a layer exchanges f(t) = fraction/2 · (1 + cos(π t / t_end)) of its weights. A grown weight starts at 0
    with its momentum zeroed; a weight dropped and grown again in one exchange is unchanged. The `scope`, erk or local,
    sets the number of weights of each layer.
    """

    def __init__(
        self,
        job: MethodJob,
        *,
        scope: str = "erk",
        fraction: float = 0.3,
        every: int | None = None,
        end: float = 0.75,
    ) -> None:
        targets = job.targets()
        if SCOPES[scope].counts is None:
            raise InputError(f"Random masks can't be spread by the scope {scope}: choose erk or local.")
        check_span(0, end)
        every = max(1, min(100, job.steps // 20)) if every is None else every
        check_every(every)
        given = {name: mask for name, mask in job.masks.items() if name in targets}
        lottery = {
            name: uniform(target.shape, target.device, "dynamic", job.seed, 0, name)
            for name, target in targets.items()
        }
        super().__init__(job, allocate(lottery, job.amount, scope, already=given))
        self.fraction, self.every, self.end = check_amount(fraction), every, end
        self.allowed = {name: mask.to(targets[name].device) for name, mask in given.items()}
        self._updated = 0

    def grows(self, name: str, parameter: nn.Parameter) -> Tensor | None:
        """Return a score of each weight, of its shape, of which the highest grow; None to skip the exchange."""
        raise NotImplementedError

    def zero_gradients(self) -> None:
        """Exchange connections at multiples of `every`, by dense gradients; then zero those of cut weights."""
        step = self.clock.step
        if 0 < step < self.end * self.job.steps and step % self.every == 0 and self._updated != step:
            self._updated = step
            self.change(Masks({name: self._exchanged(name, mask) for name, mask in self.masks.items()}))
        super().zero_gradients()

    def cut(self) -> Masks:
        """Return the current masks: the amount is cut from the first step on."""
        return self.masks

    @torch.no_grad()
    def _exchanged(self, name: str, mask: Tensor) -> Tensor:
        """Return a layer's next mask, with the same number of weights; zero the momentum of those grown."""
        parameter = self.targets[name]
        growth = self.grows(name, parameter)
        if growth is None:
            return mask
        alive, free = mask.flatten(), ~mask.flatten()
        if name in self.allowed:
            free &= self.allowed[name].flatten()
        decay = (1 + math.cos(math.pi * self.clock.step / (self.end * self.job.steps))) / 2
        count = min(round(self.fraction * decay * int(alive.sum())), int(free.sum()))
        staying = _highest(parameter.abs().flatten(), alive, int(alive.sum()) - count)
        grown = _highest(growth.flatten(), (alive | free) & ~staying, count)
        new = (grown & ~alive).reshape(mask.shape)
        for value in self.job.optimizer.state[parameter].values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value.masked_fill_(new, 0)
        return (staying | grown).reshape(mask.shape)


def _highest(scores: Tensor, among: Tensor, count: int) -> Tensor:
    """Return the mask, bool [n], of the `count` highest `scores` [n] of those where `among`, bool [n], is True."""
    ranked = torch.nan_to_num(scores.detach().float(), nan=0.0).masked_fill(~among, -math.inf)
    return keep_highest(ranked, scores.numel() - count)


@method("set", paper="Mocanu et al. 2018")
class Set(Dynamic):
    """Train sparse; drop the smallest weights and grow others at random."""

    def grows(self, name: str, parameter: nn.Parameter) -> Tensor:
        """Return random scores."""
        purpose = ("dynamic", self.job.seed, self.clock.step, name)
        return uniform(parameter.shape, parameter.device, *purpose)


@method("rigl", paper="Evci et al. 2020")
class RigL(Dynamic):
    """Train sparse; drop the smallest weights and grow where the gradient is largest."""

    def grows(self, name: str, parameter: nn.Parameter) -> Tensor | None:
        """Return the dense gradient's magnitude, |∂L/∂θ|; None without a gradient."""
        return None if parameter.grad is None else parameter.grad.abs()
