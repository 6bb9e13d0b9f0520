"""Criteria of attention heads, from their outputs and the gradient of the loss.

`attention` is the output of the heads before the output projection, and `gradient_of_attention` the gradient of the
summed loss of a batch with respect to it, both [N, heads, tokens, features]; formulas return scores [parts, heads],
averaged over parts.
"""

from __future__ import annotations

from torch import Tensor

from secateur.core.errors import InputError
from secateur.criteria.registry import OBSERVED, criterion

OBSERVED.add("attention", "the output of the heads")
OBSERVED.add("gradient_of_attention", "its gradient")
OBSERVED.add("loss", "the loss")
OBSERVED.add("loss_without", "the loss without each unit")


@criterion(
    "head_importance",
    elements={"heads"},
    per="attention",
    moment="after",
    paper="Michel et al. 2019, Are Sixteen Heads Really Better than One?, eq. 2",
)
def head_importance(attention: Tensor, gradient_of_attention: Tensor, *, form: str = "example") -> Tensor:
    """Sensitivity of the loss to a head, E |Att(x)ᵀ ∂L/∂Att(x)|; the mean over samples.

    `form` is the unit of the sum inside the absolute value: "example" (the default, the paper's equation), "token"
    (the authors' code) or "batch" (popular ports; depends on the batch size). Raises `InputError` for any other.

    Cost: a forward and a backward pass for each batch.
    """
    products = (attention * gradient_of_attention).sum(3)  # [N, heads, tokens]
    if form == "example":
        return products.sum(2).abs()
    if form == "token":
        return products.abs().sum(2)
    if form == "batch":
        return products.sum(2).mean(0, keepdim=True).abs()
    raise InputError(f"There is no form '{form}' of head_importance: choose example, token or batch.")


@criterion(
    "head_loss",
    elements={"heads"},
    per="masked",
    moment="after",
    paper="Michel et al. 2019, section 3.2: each head masked in turn",
)
def head_loss(loss: Tensor, loss_without: Tensor) -> Tensor:
    """Exact change of the loss when a head is masked, L without it − L.

    `loss` is the mean loss, [1], and `loss_without` that without each unit, [units] → [units].

    Cost: a forward pass for each head and batch.
    """
    return loss_without - loss
