"""Importance criteria for weights, units and layers, and their registry.

Every module of this package registers its criteria.
"""

from secateur.core.discovery import import_modules
from secateur.criteria.calibration import Calibration, balanced
from secateur.criteria.quantities import CalibrationBatches, QuantitySource, measured, sources
from secateur.criteria.registry import CRITERIA, QUANTITIES, Criterion, criterion, quantity
from secateur.criteria.scoring import score

import_modules(__name__, __path__)

__all__ = [
    "CRITERIA",
    "QUANTITIES",
    "Calibration",
    "CalibrationBatches",
    "Criterion",
    "QuantitySource",
    "balanced",
    "criterion",
    "measured",
    "quantity",
    "score",
    "sources",
]
