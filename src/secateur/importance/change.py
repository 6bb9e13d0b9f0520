"""Looking at what the loss would do, to first order, if a whole unit went."""

from __future__ import annotations

import torch

from secateur.criteria.losses import gradients
from secateur.errors import InputError
from secateur.importance.parts import VIEWS, Part, Parts, Question
from secateur.importance.weights import sums


@VIEWS.register("change")
def change_parts(question: Question) -> Parts:
    """Score Σ w · ∂L/∂w over all weights of a unit, [units], batch by batch; the mean over all samples."""
    criterion, parameters = question.criterion, question.parameters()
    if question.data is None:
        raise InputError(
            f"The criterion {criterion.name} needs the gradient on some data: "
            "pass batches of inputs and labels as data=."
        )
    totals = {group.name: torch.zeros(group.units, dtype=torch.float64) for group in question.groups}
    samples = 0
    for gradient, size in gradients(question.model, parameters, question.data):
        products = {name: parameters[name].detach() * grad for name, grad in gradient.items()}
        for group in question.groups:
            change = torch.stack([part.total for part in sums(group, products, {})]).sum(0)
            totals[group.name] += size * criterion.unit(change, **question.options)
        samples += size
    if not samples:
        raise InputError("The data holds no batch: pass batches of inputs and labels as data=.")
    return {name: [Part(total / samples, torch.ones_like(total))] for name, total in totals.items()}
