"""Reconstruction: a least-squares fit of the readers of removed units to their outputs before the cut.

Front to back, each product that reads removed units is fitted on its inputs in the pruned model to its outputs before
the cut, or to the residual stream they are added to. This also reduces the error of earlier layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.compensation.correct import corrections
from secateur.compensation.lockstep import Lockstep
from secateur.compensation.registry import Case, compensation
from secateur.core.errors import SecateurWarning
from secateur.core.options import check_least
from secateur.graph.probe import TensorPlace
from secateur.importance.products import Product, Products, channels_last, draw, patches
from secateur.linalg.ridge import Squares
from secateur.shrink.plan import named_tensors

ROWS_PER_UNKNOWN = 2
"""Rows per unknown below which a fit is unreliable."""


@compensation("reconstruct", {"units"}, needs_data=True)
def reconstruct(case: Case, *, damping: float = 1e-3, rows: int = 64) -> dict[str, Any]:
    """Fit the readers of the units to their former outputs, by least squares on calibration data.

    Minimises ‖X W′ + b′ − Y‖² + damping · mean(diag XᵀX) · ‖W′ − W‖² over W′ and b′, where X are the inputs in the
    smaller model, Y the outputs before the cut and W the weights that dropping leaves (He et al. 2017, Channel
    Pruning for Accelerating Very Deep Neural Networks, eq. 2, with the whole kernel free). `rows` (default 64) is the
    number of equations for each unknown of an output, drawn from all places of all samples. `damping` (default 1e-3)
    is raised for singular equations. Weights used more than once, or by anything but a linear layer or convolution,
    are not fitted. Raises `InputError` for `rows` below 1 and negative `damping`.

    Cost: a forward pass of both models.
    """
    assert case.cut is not None
    check_least("option rows of reconstruct", rows, 1)
    check_least("option damping of reconstruct", damping, 0.0)
    read = {
        (m.name, m.dim) for g in case.groups if not bool(case.kept(g).all()) for m in g.members if m.reads
    }
    steps = [
        LeastSquaresFit(case, product, damping, rows)
        for product in Products(case.cut.coupling).alone()
        if (product.weight, product.rows) in read
    ]
    others = (
        corrections(case, case.cut.coupling, [step.product.weight for step in steps]) if case.corrects else []
    )
    assert case.data is not None
    Lockstep(case.model, case.pruned, case.program, [*steps, *others]).run(case.data, "reconstruction")
    return {**tell(steps, sorted({name for name, _ in read})), "corrected": sum(step.done for step in others)}


def tell(steps: Sequence[LeastSquaresFit], wanted: Sequence[str]) -> dict[str, Any]:
    """Return the errors of each fit, and the reasons for unfitted weights among `wanted`, as JSON.

    Warns of fits with fewer than `ROWS_PER_UNKNOWN` rows for each unknown.
    """
    if few := [step.product.weight for step in steps if step.few]:
        warnings.warn(
            f"{few[0]} was fitted to fewer than {ROWS_PER_UNKNOWN} rows for each unknown, "
            f"{len(few)} of {len(steps)} layers were: on other data that may be worse than no fit; "
            "give more samples, or more damping, such as 0.1.",
            SecateurWarning,
            stacklevel=2,
        )
    fitted = {step.product.weight: step.told for step in steps}
    layers = {name: told for name, told in fitted.items() if told}
    left = {
        name: "no sample of the data comes to it"
        if name in fitted
        else "it is not the weight of one linear layer or convolution alone"
        for name in wanted
        if name not in layers
    }
    return {"layers": layers, **({"left": left} if left else {})}


class LeastSquaresFit:
    """The least-squares fit of one product."""

    def __init__(self, case: Case, product: Product, damping: float, rows: int) -> None:
        self.product, self.damping, self.case = product, damping, case
        self.place = product.into
        self.residual = product.residual
        self.dense: tuple[TensorPlace, ...] = (
            product.out,
            *((product.residual,) if product.residual else ()),
        )
        self.earlier: tuple[TensorPlace, ...] = (product.residual,) if product.residual else ()
        self.stay = case.stays(product.weight, 1 - product.rows)
        self.told: dict[str, float] = {}
        self.few = False
        self.squares: Squares | None = None
        own = named_tensors(case.pruned)
        self.weight = own[product.weight]
        self.bias = own[product.bias] if product.bias else None
        self.norm = (
            {name: own[name] for name in (product.norm.weight, product.norm.mean, product.norm.variance)}
            if product.norm
            else {}
        )
        inputs = self.weight.numel() // len(self.weight) if product.rows == 1 else len(self.weight)
        self.wanted = rows * inputs
        self.generator = torch.Generator().manual_seed(case.seed)

    def see(self, pruned: Tensor, dense: Sequence[Tensor], earlier: Sequence[Tensor], share: float) -> None:
        """Add rows of the normal equations."""
        count = max(1, round(self.wanted * share))
        target, picked = draw(self.product, dense[0], count, self.generator)
        stay = self.stay.to(target.device)
        inputs = patches(pruned, self.product, picked)
        goal = target[picked][:, stay]
        if self.residual is not None:
            before, now = (channels_last(self.product, value)[picked] for value in (dense[1], earlier[0]))
            goal = goal + self._unscaled(before[:, stay] - now)
        goal = goal.view(len(goal), self.product.groups, -1).movedim(1, 0)
        if self.squares is None:
            self.squares = Squares(inputs.shape[-1], goal.shape[-1], self.product.groups, goal.device)
        self.squares.add(inputs, goal)

    def _unscaled(self, error: Tensor) -> Tensor:
        """Return an error of the residual stream in units of the product's output, before its normalisation."""
        norm = self.product.norm
        if norm is None:
            return error
        scale = self.norm[norm.weight] / (self.norm[norm.variance] + norm.epsilon).sqrt()
        return error * scale / (scale.square() + 1e-3 * scale.square().mean() + 1e-12)

    def act(self) -> Mapping[str, Tensor]:
        """Solve the normal equations, and return the new weight and bias; empty without a sample."""
        if self.squares is None:
            return {}
        fitted = self.squares.solve(self.columns(self.weight), self.shift(), self.damping)
        self.told = {"before": fitted.before, "after": fitted.after, "damping": fitted.damping}
        self.few = self.squares.count < ROWS_PER_UNKNOWN * len(self.squares.gram[0])
        return self.tensors(fitted.weight, fitted.bias)

    def columns(self, weight: Tensor) -> Tensor:
        """Return a tensor of the weight's shape as [groups, inputs, outputs]."""
        matrix = weight.detach() if self.product.rows == 1 else weight.detach().T
        flat = matrix.flatten(1)
        return flat.view(self.product.groups, -1, flat.shape[1]).mT

    def shaped(self, columns: Tensor) -> Tensor:
        """Return [groups, inputs, outputs] in the weight's shape: the inverse of `columns`."""
        weight = columns.mT.flatten(0, 1)
        return (weight if self.product.rows == 1 else weight.T).reshape(self.weight.shape)

    def tensors(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Return the values of the model's tensors for W, [groups, inputs, outputs], and b, [groups, outputs]."""
        product = self.product
        new = {product.weight: self.shaped(weight)}
        if bias is not None:
            bias = bias.flatten()
            if product.norm is not None:
                own = 0 if self.bias is None else self.bias
                new[product.norm.mean] = self.norm[product.norm.mean] - (bias - own)
            elif product.bias is not None:
                new[product.bias] = bias
        return new

    def shift(self) -> Tensor | None:
        """Return the bias of the product, [groups, outputs], 0 before a normalisation; None if it can't change."""
        if self.bias is not None:
            return self.bias.detach().view(self.product.groups, -1)
        if self.product.norm is not None:
            return torch.zeros(len(self.stay), device=self.weight.device).view(self.product.groups, -1)
        return None

    def again(self, pruned: Tensor) -> Tensor | None:
        """Return None: the value does not change, only its reader."""
        return None
