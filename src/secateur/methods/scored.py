"""Methods that learn a score for every weight, or block of weights, beside the weights.

What the layers see is W′ = W ∘ m(S): a mask, or factors, made from scores S that are parameters of their own. What
the mask does not let through in the value it lets through in the gradient, ∂L/∂S = ∂L/∂W′ ∘ W ∘ ∂m/∂S, with the
straight-through ∂m/∂S = 1 where m is a decision: a weight that is cut now still says whether it wants to come back.

The scores join the optimiser as a parameter group, without weight decay, at the rate `score_lr`: so they are clipped,
unscaled, averaged over processes and checkpointed like every parameter. A loop that sets learning rates by itself
multiplies by the group's `lr_factor`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, SecateurWarning
from secateur.methods.base import Clock, Method, MethodJob
from secateur.methods.draws import uniform
from secateur.methods.gates import Gate, Gates, rank
from secateur.methods.schedule import already_cut, check_span, cubic
from secateur.pruning.allocate_weights import SCOPES, allocate, check_amount
from secateur.sparsity.blocks import Blocks
from secateur.sparsity.masks import Masks


class ScoreGate(Gate):
    """A gate with a score for each block of its weight; subclasses say what scores mean.

    `scores` have the shape of `Blocks.means`, in float32 at least. `kept` is the decision a method takes for all
    gates together, where it takes one.
    """

    start: ClassVar[float] = 0.0
    """Where scores begin."""

    def __init__(self, name: str, weight: nn.Parameter, blocks: Blocks, clock: Clock, seed: int) -> None:
        super().__init__()
        self.name, self.blocks, self.clock, self.seed = name, blocks, clock, seed
        self.shape = tuple(weight.shape)
        self.scores = nn.Parameter(
            self.initial(weight.detach()).to(torch.promote_types(weight.dtype, torch.float32))
        )
        self.kept = torch.ones_like(self.scores, dtype=torch.bool)

    def initial(self, weight: Tensor) -> Tensor:
        """Return the first scores: all alike but for a trace of the order of |W|, so that no tie is left."""
        order = rank(self.blocks.means(weight.abs()))
        return self.start + (1e-4 * abs(self.start) or 1e-12) * order

    def opened(self) -> Tensor:
        """Return the factor of each block, differentiable in the scores."""
        raise NotImplementedError

    def ranks(self) -> Tensor:
        """Return what is compared where an exact number of blocks is to go, lowest first."""
        return self.scores.detach()

    def decided(self) -> Tensor:
        """Return which blocks the scores keep by themselves."""
        return self.kept

    def settled(self, kept: Tensor) -> Tensor:
        """Return the factors that stay in the weights when the blocks `kept` are."""
        return kept

    def factors(self, weight: Tensor) -> Tensor:
        """Give every weight its block's factor."""
        return self.blocks.spread(self.opened(), self.shape)

    def drawn(self) -> Tensor:
        """Draw a number for each block, anew at every step."""
        purpose = ("gate", self.seed, self.clock.step, self.name)
        return uniform(self.scores.shape, self.scores.device, *purpose)


def straight_through(decision: Tensor, scores: Tensor) -> Tensor:
    """Return the decision as numbers, with the gradient of the scores."""
    return decision.to(scores.dtype) + (scores - scores.detach())


class ScoreBased(Method):
    """Learn scores in gates of the class `gate`; `frozen` says that nothing else is learned."""

    learns = True
    reshapes = True
    gate: ClassVar[type[ScoreGate]]
    frozen: ClassVar[bool] = False

    def __init__(
        self, job: MethodJob, *, scope: str, block: str, score_lr: float | None, **more: Any
    ) -> None:
        """Make the gates; `more` goes to each of them as attributes."""
        super().__init__(job)
        SCOPES[scope]
        if score_lr is not None and not score_lr > 0:
            raise InputError(f"score_lr is {score_lr!r}: give a learning rate above 0.")
        self.scope, self.blocks = scope, Blocks.parse(block)
        self.targets = job.targets()
        self.earlier = Masks(
            {n: mask.to(self.targets[n].device) for n, mask in job.masks.items() if n in self.targets}
        )
        self.gates = {
            name: self.gate(name, target, self.blocks, self.clock, job.seed)
            for name, target in self.targets.items()
        }
        for gate in self.gates.values():
            vars(gate).update(more)
        self.score_lr = score_lr
        self._installed = Gates(job.model, self.targets, self.gates)
        if job.requested is not None:
            self.lowest_cut(job.requested)  # what can't be cut in the end is refused now

    @property
    def masks(self) -> Masks:
        """What is cut at the moment."""
        return self._spread({name: gate.decided() for name, gate in self.gates.items()})

    def attach(self) -> None:
        """Put the gates before the weights and their scores into the optimiser."""
        optimizer = self.job.optimizer
        first = optimizer.param_groups[0]
        peak = float(first.get("initial_lr", first["lr"]))
        if self.score_lr is not None and not peak:
            raise InputError(
                "The optimiser's learning rate is 0: give it the rate that score_lr goes along with."
            )
        factor = 1.0 if self.score_lr is None else self.score_lr / peak
        super().attach()
        self._installed.install()
        optimizer.add_param_group(
            {
                "params": [gate.scores for gate in self.gates.values()],
                "lr": first["lr"] * factor,
                "initial_lr": peak * factor,
                "weight_decay": 0.0,
                "lr_factor": factor,
            }
        )
        scores = {id(gate.scores) for gate in self.gates.values()}
        self._to_thaw = [
            p for p in self.job.model.parameters() if self.frozen and p.requires_grad and id(p) not in scores
        ]
        for parameter in self._to_thaw:
            parameter.requires_grad_(False)
            parameter.grad = None

    def release(self) -> None:
        """Take the gates and the scores away."""
        self._installed.remove()
        optimizer = self.job.optimizer
        scores = [gate.scores for gate in self.gates.values()]
        optimizer.param_groups[:] = [
            group for group in optimizer.param_groups if not any(p is scores[0] for p in group["params"])
        ]
        for score in scores:
            optimizer.state.pop(score, None)
        for parameter in self._to_thaw:
            parameter.requires_grad_(True)

    def cut(self) -> Masks:
        """Cut the lowest scores, exactly as many as the amount says; without one, what scores cut by themselves."""
        kept = (
            {name: gate.decided() for name, gate in self.gates.items()}
            if self.job.requested is None
            else self.lowest_cut(self.job.requested)
        )
        for name, gate in self.gates.items():
            factors = gate.blocks.spread(gate.settled(kept[name]), gate.shape)
            self.targets[name].mul_(factors.to(self.targets[name].dtype))
        return self._spread(kept)

    def lowest_cut(self, amount: float) -> Mapping[str, Tensor]:
        """Return for each gate which blocks are kept when the lowest-ranked fraction `amount` goes."""
        ranks = {name: gate.ranks() for name, gate in self.gates.items()}
        return allocate(ranks, amount, self.scope, already=self.left())

    def left(self) -> Masks:
        """Return which blocks earlier masks have left anything of."""
        return Masks({name: self.blocks.means(mask.float()) > 0 for name, mask in self.earlier.items()})

    def _spread(self, kept: Mapping[str, Tensor]) -> Masks:
        masks = Masks({n: gate.blocks.spread(kept[n], gate.shape).clone() for n, gate in self.gates.items()})
        return masks & self.earlier


class TopScores(ScoreBased):
    """Keeps the highest-ranked blocks, the amount growing by the cubic schedule from `initial`."""

    def __init__(
        self, job: MethodJob, *, scope: str, begin: float, end: float, initial: float, **more: Any
    ) -> None:
        super().__init__(job, scope=scope, **more)
        check_span(begin, end)
        self.begin, self.end = begin, end
        whole = Masks({name: gate.kept for name, gate in self.gates.items()})
        self.initial = min(job.amount, max(check_amount(initial), already_cut(whole & self.left(), scope)))
        self._choose()

    def after_step(self) -> None:
        """Choose again."""
        self._choose()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Choose as the scores and the clock say."""
        self._choose()

    @torch.no_grad()
    def _choose(self) -> None:
        span = {"initial": self.initial, "begin": self.begin, "end": self.end}
        kept = self.lowest_cut(cubic(self.clock.step, self.job.steps, self.job.amount, **span))
        for name, gate in self.gates.items():
            gate.kept = kept[name]


class Penalised(ScoreBased):
    """Pushes scores down with λ_t · (mean over all gates of `cost`), λ growing to `strength` by the cubic schedule."""

    amount = "optional"

    def __init__(self, job: MethodJob, *, strength: float, begin: float, end: float, **more: Any) -> None:
        super().__init__(job, **more)
        check_span(begin, end)
        if not strength >= 0:
            raise InputError(f"The strength {strength!r} is no penalty: give a number from 0, such as 1.0.")
        self.strength, self.begin, self.end = strength, begin, end

    def cost(self, gate: ScoreGate) -> Tensor:
        """Return what each block costs, differentiable in the scores."""
        raise NotImplementedError

    def penalty(self) -> Tensor:
        """Return λ_t · mean cost."""
        strength = cubic(self.clock.step, self.job.steps, self.strength, begin=self.begin, end=self.end)
        total = torch.stack([self.cost(gate).sum() for gate in self.gates.values()]).sum()
        return strength * total / sum(gate.scores.numel() for gate in self.gates.values())

    def cut(self) -> Masks:
        """Cut as the scores or the amount say. Warns where scores that decide by themselves cut nothing."""
        masks = super().cut()
        if self.job.requested is None and masks.pruned == self.earlier.pruned and _speaks():
            warnings.warn(
                f"The method {self.job.name} has cut nothing: make the penalty larger (strength), let the scores learn "
                "faster (score_lr), or begin earlier (begin, end); with an amount exactly so many go.",
                SecateurWarning,
                stacklevel=3,
            )
        return masks


def _speaks() -> bool:
    """Whether this is the only process, or the first of several."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
