"""Criteria that look at what attention heads hand on, and at what the loss makes of it.

`attention` is what the heads found, before they are projected together, and `gradient` the gradient of the summed loss
of a batch at the same place, both [N, heads, tokens, features]; a formula makes of them scores [parts, heads], which
are averaged.
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

    `form` says what is summed before the absolute value is taken: all of an "example" (the paper's equation), each of
    its tokens (the authors' code, "token"), or a whole "batch" (as popular ports do it: depends on the batch size).

    Cost: a pass there and back for each batch.
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
    """Change of the loss when a head is masked, L without it − L; exact, and as many passes as there are heads.

    Cost: as many passes as there are heads, for each batch.
    """
    return loss_without - loss
