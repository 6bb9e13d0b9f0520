"""Reconstruction of masked weights: a least-squares update of the kept ones, layer by layer.

Front to back, each linear layer and convolution is fitted on its inputs in the pruned model to its outputs before the
cut, or to the residual stream they are added to. This also reduces the error of earlier layers, in contrast to
SparseGPT, whose targets are the dense weights' outputs on the pruned model's inputs. A sweep of optimal brain surgeon
with one Hessian for all rows finds the weights, and a few steps of conjugate gradients refine them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.compensation.lockstep import Lockstep
from secateur.compensation.obs import Cheapest, CheapestOfEach, ColumnSelector, Given, Hessian, refine, sweep
from secateur.compensation.reconstruct import ROWS_PER_UNKNOWN, LeastSquaresFit, tell
from secateur.compensation.registry import Case, compensation
from secateur.core.errors import InputError
from secateur.core.options import check_least
from secateur.graph.couple import couple
from secateur.importance.products import Product, Products
from secateur.shrink.plan import named_tensors
from secateur.sparsity.granularity.pattern import Pattern
from secateur.sparsity.masks import Masks

SELECT = ("criterion", "obs")


@compensation("reconstruct", {"weights"}, needs_data=True)
def reconstruct_weights(
    case: Case,
    *,
    select: str = "criterion",
    damping: float = 0.01,
    rows: int = 64,
    block: int = 128,
    refine: int = 10,
) -> dict[str, Any]:
    """Fit the remaining weights of each layer to its former outputs, by least squares on calibration data.

    Minimises ‖X W′ + b′ − Y‖² + damping · mean(diag XᵀX) · ‖W′ − W‖² over W′ and b′, where X are the layer's inputs in
    the pruned model, Y its outputs before the cut and W its weights then; W′ is zero where the masks cut. The sweep
    (Frantar & Alistarh 2023, SparseGPT, Alg. 1) comes near the minimum, and `refine` (default 10) steps of conjugate
    gradients follow; 0 keeps the sweep's weights. An output with a smaller error under dropping keeps its weights, with
    the best bias. `select` is the source of the masks: "criterion" (default), or "obs", the costs of optimal brain
    surgeon, with as many removed in each layer, or in each group of a pattern. `rows` (default 64) is the number of
    equations for each unknown of an output, drawn from all places of all samples, `block` (default 128) the number of
    columns per update of the later columns. `damping` (default 0.01) is raised for a singular Hessian.

    Raises `InputError` for options out of range, and for "obs" with blocks.

    Cost: a forward pass of both models, up to each layer.
    """
    if select not in SELECT:
        raise InputError(f"The option select of reconstruct is {select!r}: choose {' or '.join(SELECT)}.")
    if select == "obs" and case.granularity.block is not None:
        raise InputError(
            f"With select=obs single weights and patterns are chosen, not {case.granularity}: leave select out, so "
            "that the criterion chooses the blocks."
        )
    for name, value, least in (("rows", rows, 1), ("block", block, 1), ("refine", refine, 0)):
        check_least(f"option {name} of reconstruct", value, least)
    check_least("option damping of reconstruct", damping, 0.0)
    assert case.data is not None
    products = Products(couple(case.program))
    cut = [name for name, mask in case.masks.items() if not bool(mask.all())]
    steps = {
        product.weight: Sweep(case, product, select, damping, rows, block, refine)
        for product in products.alone()
        if product.weight in cut
    }
    if steps:
        Lockstep(case.model, case.pruned, case.program, [*steps.values()]).run(case.data, "reconstruction")
    told = tell([*steps.values()], cut)
    if select == "obs":
        told["masks"] = Masks({**case.masks, **{name: step.mask for name, step in steps.items()}})
    return told


class Sweep(LeastSquaresFit):
    """The fit of one product under its mask."""

    def __init__(
        self,
        case: Case,
        product: Product,
        select: str,
        damping: float,
        rows: int,
        block: int,
        refine: int,
    ) -> None:
        super().__init__(case, product, damping, rows)
        self.select, self.block, self.refine, self.granularity = select, block, refine, case.granularity
        self.mask = case.masks[product.weight].to(self.weight.device)
        earlier = case.earlier.get(product.weight)
        self.allowed = torch.ones_like(self.mask) if earlier is None else earlier.to(self.weight.device)
        self.original = named_tensors(case.model)[product.weight]
        self.cut_bias: Tensor | None = None
        if product.bias in case.masks:
            self.bias, self.cut_bias = None, self.bias

    def see(self, pruned: Tensor, dense: Sequence[Tensor], earlier: Sequence[Tensor], share: float) -> None:
        """Add rows of the normal equations, without the contribution of a bias that is itself masked."""
        if self.cut_bias is not None:
            added = self.cut_bias.detach().view(-1, *(1 for _ in self.product.kernel))
            dense = [dense[0] - added, *dense[1:]]
        super().see(pruned, dense, earlier, share)

    def act(self) -> Mapping[str, Tensor]:
        """Return the weights and bias of a sweep from the unmasked minimum; record the errors."""
        if self.squares is None:
            return {}
        squares, shift = self.squares, self.shift()
        gram, cross, energy = squares.moments(shift is not None)
        hessian = Hessian.of(gram, self.damping)
        dense, dropped = (self.columns(weight).double() for weight in (self.original, self.weight))
        least = (dense + hessian.solve(cross - gram @ dense)).mT
        swept = sweep(least, hessian, self._choice(), self.block)
        weight = refine(swept.weight, hessian, least, swept.kept, self.refine).mT
        best = dense * swept.kept.mT
        errors = [squares.errors(w, None if shift is None else squares.shift(w)) for w in (weight, best)]
        weight = torch.where((errors[0] <= errors[1])[:, None], weight, best)
        bias = None if shift is None else squares.shift(weight)
        self.mask = self.shaped(swept.kept.mT)
        variance = float(energy.sum().clamp(min=1e-300))
        self.told = {
            "before": float(squares.errors(dropped, shift).sum()) / variance,
            "after": float(squares.errors(weight, bias).sum()) / variance,
            "damping": hessian.damping,
        }
        self.few = squares.count < ROWS_PER_UNKNOWN * len(gram[0])
        return self.tensors(weight, bias)

    def _choice(self) -> ColumnSelector:
        kept, allowed = (self.columns(mask).mT for mask in (self.mask, self.allowed))
        if self.select == "criterion":
            return Given(kept, self.block)
        if isinstance(self.granularity, Pattern):
            across = self.product.rows == 0  # a pattern runs along dimension 1 of the weight
            return CheapestOfEach(kept, allowed, self.granularity.of, math.prod(self.product.kernel), across)
        return Cheapest(kept, allowed, self.block)
