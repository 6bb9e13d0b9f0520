"""What matters least: criteria and the registry they stand in."""

from secateur.criteria import filters, flow, gradients, initialisation, lamp, losses, weights  # registers
from secateur.criteria.calibration import balanced
from secateur.criteria.quantities import Batches, Source, measured, sources
from secateur.criteria.registry import CRITERIA, QUANTITIES, Criterion, criterion
from secateur.criteria.scoring import score

__all__ = [
    "CRITERIA",
    "QUANTITIES",
    "Batches",
    "Criterion",
    "Source",
    "balanced",
    "criterion",
    "filters",
    "flow",
    "gradients",
    "initialisation",
    "lamp",
    "losses",
    "measured",
    "score",
    "sources",
    "weights",
]
