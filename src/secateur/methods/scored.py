"""Base classes of methods that learn a score for every weight, or block of weights, beside the weights.

The layers compute with W′ = W ∘ m(S): a mask, or factors, of scores S that are parameters of their own. The scores'
gradient is ∂L/∂S = ∂L/∂W′ ∘ W ∘ ∂m/∂S, with the straight-through ∂m/∂S = 1 for a binary m, so the scores of cut
weights are trained too, and a cut weight can return.

The scores join the optimiser as a parameter group, without weight decay, at the rate `score_lr`: so they are clipped,
unscaled, averaged over processes and checkpointed like every parameter. A loop that sets learning rates by itself
multiplies by the group's `lr_factor`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, SecateurWarning
from secateur.core.modules import parameters_of
from secateur.core.registry import Registry
from secateur.methods.base import Clock, Method, MethodJob
from secateur.methods.draws import uniform
from secateur.methods.gates import Gate, Gates, rank
from secateur.methods.schedule import already_cut, check_span, cubic
from secateur.pruning.allocate_weights import SCOPES, allocate, check_amount
from secateur.sparsity.blocks import Blocks
from secateur.sparsity.masks import Masks


class ScoreGate(Gate):
    """A gate with a score for each block of its weight; subclasses define the factor of a score.

    `scores` have the shape of `Blocks.means`, in float32 at least. `kept`, a boolean of that shape, is the choice of
    methods that rank the blocks of all gates together; all True at first.
    """

    start: ClassVar[float] = 0.0
    """Initial value of the scores."""

    def __init__(self, name: str, weight: nn.Parameter, blocks: Blocks, clock: Clock, seed: int) -> None:
        super().__init__()
        self.name, self.blocks, self.clock, self.seed = name, blocks, clock, seed
        self.shape = tuple(weight.shape)
        self.scores = nn.Parameter(
            self.initial(weight.detach()).to(torch.promote_types(weight.dtype, torch.float32))
        )
        self.kept = torch.ones_like(self.scores, dtype=torch.bool)

    def initial(self, weight: Tensor) -> Tensor:
        """Return the first scores: `start`, plus a tiny term in the order of |W| that breaks ties."""
        order = rank(self.blocks.means(weight.abs()))
        return self.start + (1e-4 * abs(self.start) or 1e-12) * order

    def opened(self) -> Tensor:
        """Return the factor of each block, differentiable in the scores."""
        raise NotImplementedError

    def ranks(self) -> Tensor:
        """Return the values by which an exact number of blocks is cut, lowest first; by default the scores."""
        return self.scores.detach()

    def decided(self) -> Tensor:
        """Return a boolean of the scores' shape: the blocks kept without an amount."""
        return self.kept

    def settled(self, kept: Tensor) -> Tensor:
        """Return the factors to be multiplied into the weights at the end, given the blocks `kept`."""
        return kept

    def factors(self, weight: Tensor) -> Tensor:
        """Return every weight's factor, that of its block."""
        return self.blocks.spread(self.opened(), self.shape)

    def drawn(self) -> Tensor:
        """Return a random number in [0, 1) for each block, drawn anew at every step."""
        purpose = ("gate", self.seed, self.clock.step, self.name)
        return uniform(self.scores.shape, self.scores.device, *purpose)


def straight_through(decision: Tensor, scores: Tensor) -> Tensor:
    """Return the boolean `decision` as 0 and 1 in the dtype of `scores`, with derivative 1 in them."""
    return decision.to(scores.dtype) + (scores - scores.detach())


class ScoreBased(Method):
    """Learns the scores of gates of the class `gate`; with `frozen`, all other parameters are frozen."""

    learns = True
    reshapes = True
    gate: ClassVar[type[ScoreGate]]
    frozen: ClassVar[bool] = False

    def __init__(
        self, job: MethodJob, *, scope: str, block: str, score_lr: float | None, **more: Any
    ) -> None:
        """Make the gates; `more` are attributes of each."""
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
            self.lowest_cut(job.requested)  # refuse an impossible amount at the start

    @property
    def masks(self) -> Masks:
        """The current cuts."""
        return self._spread({name: gate.decided() for name, gate in self.gates.items()})

    def attach(self) -> None:
        """Install the gates, add their scores to the optimiser and, if `frozen`, freeze the other parameters.

        Raises `InputError` for a learning rate of 0 with a `score_lr`.
        """
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
            p
            for p in parameters_of(self.job.model)
            if self.frozen and p.requires_grad and id(p) not in scores
        ]
        for parameter in self._to_thaw:
            parameter.requires_grad_(False)
            parameter.grad = None

    def release(self) -> None:
        """Remove the gates and the scores, and unfreeze parameters."""
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
        """Cut exactly the amount, of the lowest ranks; without one, the blocks that the gates don't keep."""
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
        """Return name → boolean of the kept blocks of each gate, without the lowest-ranked fraction `amount`."""
        ranks = {name: gate.ranks() for name, gate in self.gates.items()}
        return allocate(ranks, amount, self.scope, already=self.left())

    def left(self) -> Masks:
        """Return masks of the blocks with a weight left by earlier masks."""
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
        """Update the kept blocks by the schedule."""
        self._choose()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Update the kept blocks from the scores and the clock."""
        self._choose()

    @torch.no_grad()
    def _choose(self) -> None:
        span = {"initial": self.initial, "begin": self.begin, "end": self.end}
        kept = self.lowest_cut(cubic(self.clock.step, self.job.steps, self.job.amount, **span))
        for name, gate in self.gates.items():
            gate.kept = kept[name]


WEIGHTINGS: Registry[Callable[[Sequence[Tensor]], Tensor]] = Registry("weighting")
"""Name → mean of the costs of several matrices."""


@WEIGHTINGS.register("matrix")
def mean_of_means(costs: Sequence[Tensor]) -> Tensor:
    """Every matrix counts alike: mean over matrices of the mean over a matrix's scores, as in the authors' code."""
    return torch.stack([cost.mean() for cost in costs]).mean()


@WEIGHTINGS.register("score")
def mean_of_all(costs: Sequence[Tensor]) -> Tensor:
    """Every score counts alike: mean over all scores."""
    return torch.stack([cost.sum() for cost in costs]).sum() / sum(cost.numel() for cost in costs)


class Penalised(ScoreBased):
    """Pushes scores down with λ_t · (mean over all gates of `cost`), λ growing to `strength` by the cubic schedule.

    `weighting` says what counts alike in the mean, by a name of `WEIGHTINGS`.
    """

    amount = "optional"

    def __init__(
        self, job: MethodJob, *, strength: float, weighting: str, begin: float, end: float, **more: Any
    ) -> None:
        super().__init__(job, **more)
        check_span(begin, end)
        if not strength >= 0:
            raise InputError(f"The strength {strength!r} is no penalty: give a number from 0, such as 1.0.")
        self.strength, self.begin, self.end = strength, begin, end
        self.mean = WEIGHTINGS[weighting]

    def cost(self, gate: ScoreGate) -> Tensor:
        """Return the cost of each block, differentiable in the scores and of their shape."""
        raise NotImplementedError

    def penalty(self) -> Tensor:
        """Return λ_t · mean cost."""
        strength = cubic(self.clock.step, self.job.steps, self.strength, begin=self.begin, end=self.end)
        return strength * self.mean([self.cost(gate) for gate in self.gates.values()])

    def cut(self) -> Masks:
        """Cut by the gates or the amount. Warns if nothing is cut without an amount."""
        masks = super().cut()
        if self.job.requested is None and masks.pruned == self.earlier.pruned and _is_first_process():
            warnings.warn(
                f"The method {self.job.name} has cut nothing: make the penalty larger (strength), let the scores learn "
                "faster (score_lr), or begin earlier (begin, end); with an amount exactly so many go.",
                SecateurWarning,
                stacklevel=3,
            )
        return masks


def _is_first_process() -> bool:
    """Whether this is the only process, or the first of several."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
