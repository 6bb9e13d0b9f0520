"""Importance criteria for weights, units and layers, and their registry."""

from secateur.criteria import (  # registers
    activations,
    attention,
    filters,
    flow,
    gradients,
    initialisation,
    input_norms,
    lamp,
    losses,
    obs,
    refit,
    weights,
)
from secateur.criteria.calibration import Calibration, balanced
from secateur.criteria.quantities import CalibrationBatches, QuantitySource, measured, sources
from secateur.criteria.registry import CRITERIA, QUANTITIES, Criterion, criterion, quantity
from secateur.criteria.scoring import score

__all__ = [
    "CRITERIA",
    "QUANTITIES",
    "Calibration",
    "CalibrationBatches",
    "Criterion",
    "QuantitySource",
    "activations",
    "attention",
    "balanced",
    "criterion",
    "filters",
    "flow",
    "gradients",
    "initialisation",
    "input_norms",
    "lamp",
    "losses",
    "measured",
    "obs",
    "quantity",
    "refit",
    "score",
    "sources",
    "weights",
]
