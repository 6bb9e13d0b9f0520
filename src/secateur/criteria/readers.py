"""Products that read units, as the input of criteria."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from secateur.graph.labels import Vector


@dataclass(frozen=True)
class Reader:
    """A product y = x M that reads units: `gram`, E[xᵀx], [inputs, inputs], and `weight`, M, [inputs, outputs].

    Outputs include the scale of a batch normalisation after the product. `variance` is that of the outputs, or of the
    residual stream they are added to, summed over all outputs. `unit`, [inputs], is the unit of each input, in [0,
    `units`), −1 for one outside the group. Tensors are float64.
    """

    gram: Tensor
    weight: Tensor
    variance: float
    unit: Vector
    units: int
