"""Make up for a cut: compensate, then correct what is left of the change."""

from __future__ import annotations

import warnings
from typing import Any

from secateur.compensation.correct import correct
from secateur.compensation.registry import COMPENSATIONS, Case
from secateur.core.errors import SecateurError, SecateurWarning
from secateur.graph.coupling import Coupling
from secateur.pruning.settings import Settings


def make_up(case: Case, coupling: Coupling, settings: Settings) -> dict[str, Any]:
    """Carry out the compensation of a cut and its correction, and return what they tell of themselves.

    A compensation that chose other weights to cut tells its `Masks` as "masks".
    """
    compensate = COMPENSATIONS[settings.compensation].function(str(settings.granularity))
    told = compensate(case, **settings.compensation_options)
    if case.corrects and "corrected" not in told:
        try:
            told["corrected"] = correct(case, coupling)
        except SecateurError as error:
            if settings.correct:
                raise
            told["not corrected"] = str(error)
            warnings.warn(f"Means and variances were not corrected: {error}", SecateurWarning, stacklevel=2)
    return told
