"""What matters least: criteria and the registry they stand in."""

from secateur.criteria import filters, gradients, weights  # registers
from secateur.criteria.quantities import QUANTITIES, Batches, measured
from secateur.criteria.registry import CRITERIA, Criterion, criterion
from secateur.criteria.scoring import score

__all__ = [
    "CRITERIA",
    "QUANTITIES",
    "Batches",
    "Criterion",
    "criterion",
    "filters",
    "gradients",
    "measured",
    "score",
    "weights",
]
