"""Products that read units, as criteria see them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from secateur.graph.labels import Vector


@dataclass(frozen=True)
class Reader:
    """A product y = x M that reads units: `gram`, E[xᵀx], [inputs, inputs], and `weight`, M, [inputs, outputs].

    Outputs are as a batch normalisation behind the product scales them. `variance` is that of the value they are part
    of, of the residual stream where they are added to one, summed over all outputs. `unit` says which of the `units`
    each input is of, −1 for one that stays. Tensors are float64.
    """

    gram: Tensor
    weight: Tensor
    variance: float
    unit: Vector
    units: int
